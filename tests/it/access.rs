//! Who may come in, and what each may ask for.

use crate::world::Vault;
use fairlead_core::{access::hash_key, error::Code, settings::Settings};
use serde_json::{Value, json};

fn hex(key: &str) -> String {
    hash_key(key).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn settings(change: impl Fn(&mut Value)) -> Settings {
    let mut config = json!({
        "endpoints": [{ "name": "a", "provider": "vllm", "base_url": "https://a.hush.example/v1" }],
        "models": [
            { "name": "qwen", "policy": "patient", "targets": [{ "endpoint": "a" }] },
            { "name": "llama", "targets": [{ "endpoint": "a" }] },
            { "name": "*", "targets": [{ "endpoint": "a" }] },
        ],
        "policies": { "patient": { "preset": "reasoning" }, "hurried": { "preset": "simple" } },
        "clients": [
            { "name": "all", "keys_sha256": [hex("one"), hex("two")] },
            { "name": "few", "keys_sha256": [hex("three")], "models": ["qwen", "mistral"], "policies": ["hurried"] },
            { "name": "star", "keys_sha256": [hex("four")], "models": ["*"] },
        ],
    });
    change(&mut config);
    let reading = Settings::read([("CONFIG".to_owned(), config)], &Vault);
    assert_eq!(reading.mistakes, []);
    reading.settings.unwrap()
}

#[test]
fn a_known_key_opens_and_any_other_is_401_that_says_what_to_do() {
    let settings = settings(|_| {});
    for (key, name) in [("one", "all"), ("two", "all"), ("three", "few")] {
        assert_eq!(settings.admit(Some(key)).unwrap().unwrap().name, name);
    }
    for (key, words) in [(Some("hush"), "not known"), (Some(""), "not known"), (None, "No API key was sent")] {
        let error = settings.admit(key).unwrap_err();
        assert_eq!((error.code, error.code.status()), (Code::InvalidApiKey, 401));
        assert!(error.message.contains(words) && !error.message.contains("hush"), "{error}");
    }
}

#[test]
fn without_clients_nobody_gets_in_unless_the_gateway_is_open() {
    let closed = settings(|config| config["clients"] = json!([]));
    for key in [None, Some("one")] {
        let error = closed.admit(key).unwrap_err();
        assert!(error.message.contains("keys_sha256") && error.message.contains("\"open\": true"), "{error}");
    }
    let open = settings(|config| config["open"] = true.into());
    assert!(open.admit(None).unwrap().is_none());
    assert!(open.admit(Some("unknown")).unwrap().is_none());
    assert_eq!(open.admit(Some("three")).unwrap().unwrap().name, "few", "who is known stays bound to his rules");
}

#[test]
fn a_model_is_taken_by_its_own_entry_then_by_the_star() {
    let settings = settings(|_| {});
    let entry = |key: &str, model: &str| {
        let client = settings.admit(Some(key)).unwrap();
        settings.plan(client, model, None).map(|(model, _)| model.name.clone()).map_err(|error| error.code)
    };
    assert_eq!(entry("one", "qwen"), Ok("qwen".to_owned()));
    assert_eq!(entry("one", "anything"), Ok("*".to_owned()));
    assert_eq!(entry("three", "qwen"), Ok("qwen".to_owned()));
    assert_eq!(entry("three", "mistral"), Ok("*".to_owned()), "a name behind the star may be allowed by itself");
    assert_eq!(entry("three", "llama"), Err(Code::Forbidden));
    assert_eq!(entry("three", "anything"), Err(Code::Forbidden));
    assert_eq!(entry("four", "anything"), Ok("*".to_owned()));
    assert_eq!(entry("four", "qwen"), Err(Code::Forbidden));
}

#[test]
fn an_unknown_model_is_404_and_its_name_comes_back_bounded() {
    let settings = settings(|config| {
        config["models"].as_array_mut().unwrap().pop();
        config["clients"].as_array_mut().unwrap().truncate(1);
    });
    let error = settings.plan(None, &format!("gpt\n{}", "4".repeat(5000)), None).unwrap_err();
    assert_eq!((error.code.status(), error.param.as_deref()), (404, Some("model")));
    assert!(error.message.len() < 300 && !error.message.contains('\n'), "{error}");
}

#[test]
fn a_policy_may_be_asked_for_where_it_is_allowed() {
    let settings = settings(|_| {});
    let deadline = |key: Option<&str>, wanted| {
        let client = key.and_then(|key| settings.admit(Some(key)).unwrap());
        settings.plan(client, "qwen", wanted).map(|(_, policy)| policy.deadline_ms).map_err(|error| error.code.status())
    };
    assert_eq!(deadline(Some("three"), None), Ok(1_800_000), "the entry's own");
    assert_eq!(deadline(Some("three"), Some("hurried")), Ok(60_000));
    assert_eq!(deadline(Some("three"), Some("patient")), Err(403));
    assert_eq!(deadline(Some("three"), Some("nothing")), Err(403), "who may not ask does not learn what there is");
    assert_eq!(deadline(Some("one"), Some("hurried")), Err(403));
    assert_eq!(deadline(None, Some("hurried")), Ok(60_000), "an open gateway has no rules for it");
    assert_eq!(deadline(None, Some("nothing")), Err(400));
}
