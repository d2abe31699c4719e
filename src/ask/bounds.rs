//! How large an answer a client may ask for: so many choices, so many tokens each.
//!
//! The request is read as vLLM reads it, and more strictly where that is generous (it takes `"9"` and `9.0` for 9), so
//! that nothing gets by. Where a request leaves its length to the server, the limit is written into it.

use super::{count_choices, invalid, not_json};
use crate::{
    access::Limits,
    api::Api,
    error::{Code, Error},
    json::{RawFields, pick_into, place_of, string},
};
use serde_json::value::RawValue;
use std::ops::Range;

/// The fields of a request that say how large its answer may become.
pub(crate) const SIZES: [&str; 8] = [
    "n",
    "prompt",
    "prompt_embeds",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "min_tokens",
    "best_of",
];

/// What stands under [`SIZES`], nulls included.
pub(crate) type Sizes<'a> = RawFields<'a, { SIZES.len() }>;

/// What is to be changed in a request: other text for a part of it.
pub(crate) type Edit = (Range<usize>, String);

/// What vLLM makes of a completion that names no limit (OpenAI's own default).
const COMPLETION_TOKENS: u64 = 16;

/// The names under which each route takes the tokens of an answer; none where it makes no text. Of two the first
/// counts in vLLM.
const fn names_of(api: Api) -> &'static [&'static str] {
    match api {
        Api::Chat => &["max_completion_tokens", "max_tokens"],
        Api::Completions | Api::Messages => &["max_tokens"],
        Api::Responses => &["max_output_tokens"],
        _ => &[],
    }
}

/// Holds a request against its client's limits, and says what is to be written into it. `choices` are those that it
/// asks for, but for `best_of`.
pub(crate) fn bound(
    api: Api,
    whole: &str,
    sizes: &Sizes<'_>,
    choices: usize,
    limits: &Limits,
) -> Result<Option<Edit>, Error> {
    let field = |name: &str| {
        let place = SIZES.iter().position(|other| *other == name)?;
        sizes.get(place).copied().flatten().filter(|value| value.get() != "null")
    };
    if let Some(most) = limits.max_n.filter(|_| api.has_choices()) {
        let (n, best_of) = (number("n", field("n"))?.unwrap_or(1), number("best_of", field("best_of"))?.unwrap_or(1));
        let prompts = (choices as u64).checked_div(n).unwrap_or(0).max(1);
        let asked = n.max(best_of).saturating_mul(prompts);
        if asked > u64::from(most) {
            let named = [("n", n), ("best_of", best_of)].into_iter().find(|(_, asked)| *asked > u64::from(most));
            let param = named.map_or(if prompts > 1 { "prompt" } else { "n" }, |(name, _)| name);
            let message =
                format!("Your key may ask for {most} choices in all (`max_n`); this request asks for {asked}.");
            return Err(Error::new(Code::Forbidden, message).with_param(param));
        }
    }
    let Some(most) = limits.max_tokens.filter(|_| !names_of(api).is_empty()) else { return Ok(None) };
    let mut named = false;
    // All of them, whatever the route: vLLM also keeps fields that a route does not know, and has read some of them.
    for name in ["max_completion_tokens", "max_tokens", "max_output_tokens", "min_tokens"] {
        let Some(asked) = number(name, field(name))? else { continue };
        if asked > most {
            let message =
                format!("Your key may ask for {most} tokens in an answer (`max_tokens`); `{name}` is {asked}.");
            return Err(Error::new(Code::Forbidden, message).with_param(name));
        }
        // vLLM takes a 0 of chat for none at all; in completions it stands for the prompt alone.
        if asked == 0 && api != Api::Completions && name != "min_tokens" {
            return Err(invalid(name, &format!("`{name}` must be a whole number above 0.")));
        }
        named |= names_of(api).contains(&name);
    }
    if named {
        return Ok(None);
    }
    let null = SIZES.iter().zip(sizes).find(|(name, value)| names_of(api).contains(name) && value.is_some());
    Ok(match null {
        // It asks for as much as there may be.
        Some((_, Some(null))) => Some((place_of(null.get(), whole.as_bytes()), most.to_string())),
        _ if api == Api::Completions => put("max_tokens", &most.min(COMPLETION_TOKENS).to_string(), whole),
        _ => names_of(api).last().and_then(|name| put(name, &most.to_string(), whole)),
    })
}

/// The same of an object inside a body that is such a request. `prompt` comes beside it, if there is one.
pub(crate) fn bound_object(
    api: Api,
    object: &str,
    prompt: Option<&RawValue>,
    limits: &Limits,
) -> Result<Option<Edit>, Error> {
    let mut sizes = [None; SIZES.len()];
    pick_into(object, &SIZES, &mut sizes).map_err(|error| not_json(&error))?;
    let [_, own, ..] = &mut sizes;
    *own = prompt.or(*own);
    bound(api, object, &sizes, count_choices(api, &sizes)?, limits)
}

/// A member in front of all others.
fn put(name: &str, value: &str, object: &str) -> Option<Edit> {
    let start = object.find('{')?.saturating_add(1);
    let is_empty = object.get(start..)?.trim_start().starts_with('}');
    let comma = if is_empty { "" } else { "," };
    Some((start..start, format!("{}:{value}{comma}", string(name))))
}

fn number(name: &str, value: Option<&RawValue>) -> Result<Option<u64>, Error> {
    let mistake = |_| invalid(name, &format!("`{name}` must be a whole number."));
    value.map(|value| value.get().parse().map_err(mistake)).transpose()
}

#[cfg(test)]
mod tests {
    use crate::{
        access::Limits,
        api::Api,
        ask::Ask,
        error::{Code, Error},
        message::Headers,
    };

    fn read(api: Api, body: &str, limits: &Limits) -> Result<Ask, Error> {
        Ask::read_within(api, &Headers::new(), body.as_bytes().into(), Some(limits))
    }

    fn tokens(max_tokens: u64) -> Limits {
        Limits { max_tokens: Some(max_tokens), ..Limits::default() }
    }

    /// A body with these fields.
    fn with(fields: &str) -> String {
        format!("{{\"model\":\"m\"{}{fields}}}", if fields.is_empty() { "" } else { "," })
    }

    fn refused(api: Api, fields: &str, limits: &Limits) -> (Code, String) {
        let error = read(api, &with(fields), limits).expect_err(fields);
        assert!(!error.message.contains("secret"), "{}", error.message);
        (error.code, error.param.unwrap_or_default())
    }

    #[test]
    fn a_request_that_names_no_limit_gets_its_clients_and_else_nothing_changes() {
        for (api, body, sent) in [
            (Api::Chat, r#" { "model" : "m" } "#, r#" {"max_tokens":50, "model" : "m" } "#),
            (Api::Chat, r#"{"max_tokens": null,"model":"m"}"#, r#"{"max_tokens": 50,"model":"m"}"#),
            (
                Api::Chat,
                r#"{"model":"m","max_completion_tokens":null,"max_tokens":null,"x":1.0e0}"#,
                r#"{"model":"m","max_completion_tokens":null,"max_tokens":50,"x":1.0e0}"#,
            ),
            (Api::Chat, r#"{"max_completion_tokens":null,"model":"m"}"#, r#"{"max_completion_tokens":50,"model":"m"}"#),
            (Api::Responses, r#"{"model":"m"}"#, r#"{"max_output_tokens":50,"model":"m"}"#),
            (
                Api::Responses,
                r#"{"model":"m","max_tokens":5}"#,
                r#"{"max_output_tokens":50,"model":"m","max_tokens":5}"#,
            ),
            (Api::Messages, r#"{"model":"m"}"#, r#"{"max_tokens":50,"model":"m"}"#),
            // The default of completions is 16, and null is none.
            (Api::Completions, r#"{"model":"m"}"#, r#"{"max_tokens":16,"model":"m"}"#),
            (Api::Completions, r#"{"model":"m","max_tokens":null}"#, r#"{"model":"m","max_tokens":50}"#),
            (
                Api::Completions,
                r#"{"model":"m","max_completion_tokens":5}"#,
                r#"{"max_tokens":16,"model":"m","max_completion_tokens":5}"#,
            ),
        ] {
            let ask = read(api, body, &tokens(50)).unwrap();
            assert_eq!(str::from_utf8(&ask.body), Ok(sent), "{body}");
            let named = String::from_utf8(ask.body_for(Some("Qwen")).to_vec()).unwrap();
            assert_eq!(named, sent.replace("\"m\"", "\"Qwen\""), "the model's place is known");
        }
        assert_eq!(*read(Api::Completions, &with(""), &tokens(5)).unwrap().body, *br#"{"max_tokens":5,"model":"m"}"#);
    }

    #[test]
    fn what_is_named_within_the_limit_stays_byte_by_byte() {
        for (api, fields) in [
            (Api::Chat, r#""max_tokens":50"#),
            (Api::Chat, r#""max_completion_tokens": 1,"max_tokens":null,"min_tokens":0"#),
            (Api::Completions, r#""max_tokens":0,"echo":true"#),
            (Api::Responses, r#""max_output_tokens":50"#),
            (Api::Messages, r#""max_tokens":50,"nested":{"max_tokens":9999}"#),
            (Api::Embeddings, r#""max_tokens":9999"#),
            (Api::CountTokens, ""),
            (Api::Tokenize, ""),
        ] {
            let body = with(fields);
            assert_eq!(str::from_utf8(&read(api, &body, &tokens(50)).unwrap().body), Ok(&*body));
        }
    }

    #[test]
    fn no_form_of_a_number_gets_by() {
        for name in ["max_tokens", "max_completion_tokens", "max_output_tokens", "min_tokens"] {
            for api in [Api::Chat, Api::Completions, Api::Responses, Api::Messages] {
                assert_eq!(refused(api, &format!("\"{name}\":51"), &tokens(50)), (Code::Forbidden, name.to_owned()));
                for value in
                    ["1e9", "9.0", "\"9\"", "-1", "true", "[9]", "{}", "99999999999999999999", "\"secret\"", "51e-1"]
                {
                    let refused = refused(api, &format!("\"{name}\":{value}"), &tokens(50));
                    assert_eq!(refused, (Code::InvalidRequest, name.to_owned()), "{value}");
                }
            }
        }
        for fields in [r#""max\u005ftokens":51"#, r#""max_tokens":5,"max_completion_tokens":51"#] {
            assert_eq!(refused(Api::Chat, fields, &tokens(50)).0, Code::Forbidden, "{fields}");
        }
        for fields in [r#""max_tokens":5,"max_tokens":51"#, r#""max_tokens":5,"max_\u0074okens":null"#] {
            assert_eq!(refused(Api::Chat, fields, &tokens(50)).0, Code::InvalidRequest, "{fields}");
        }
        // vLLM's `max_completion_tokens or max_tokens` would find neither.
        assert_eq!(refused(Api::Chat, r#""max_completion_tokens":0"#, &tokens(50)).0, Code::InvalidRequest);
    }

    #[test]
    fn choices_are_counted_with_their_prompts_and_with_best_of() {
        let limits = Limits { max_n: Some(4), ..Limits::default() };
        for (api, fields, param) in [
            (Api::Chat, r#""n":5"#, "n"),
            (Api::Chat, r#""best_of":5"#, "best_of"),
            (Api::Completions, r#""prompt":["a","b","c","d","e"]"#, "prompt"),
            (Api::Completions, r#""prompt":["a","b","c"],"n":2"#, "prompt"),
            (Api::Completions, r#""prompt":["a","b","c"],"best_of":2"#, "prompt"),
            (Api::Completions, r#""prompt":"a","prompt_embeds":["x","y"],"n":2"#, "prompt"),
        ] {
            assert_eq!(refused(api, fields, &limits), (Code::Forbidden, param.to_owned()), "{fields}");
        }
        assert_eq!(refused(Api::Chat, r#""best_of":"9""#, &limits), (Code::InvalidRequest, "best_of".to_owned()));
        for (api, fields) in [
            (Api::Chat, r#""n":4,"best_of":null"#),
            (Api::Completions, r#""prompt":[1,2,3,4,5,6]"#),
            (Api::Completions, r#""prompt":["a","b"],"n":2,"best_of":2"#),
            (Api::Embeddings, r#""n":5"#),
        ] {
            let body = with(fields);
            assert_eq!(str::from_utf8(&read(api, &body, &limits).unwrap().body), Ok(&*body), "nothing is written");
        }
    }

    #[test]
    fn a_client_without_such_limits_is_not_looked_at() {
        let body = with(r#""max_tokens":1e9,"max_tokens":"x","n":16384"#);
        for limits in [None, Some(&Limits { requests_per_minute: Some(1), ..Limits::default() })] {
            let ask = Ask::read_within(Api::Chat, &Headers::new(), body.as_bytes().into(), limits).unwrap();
            assert_eq!(str::from_utf8(&ask.body), Ok(&*body));
        }
    }
}
