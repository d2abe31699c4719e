//! The routes that a client may use, and what is peculiar to each.
//!
//! The list is closed: a vLLM server leaves several dangerous paths open (`/metrics`, `/sleep`,
//! `/invocations`, …; wire facts in vLLM's `docs/usage/security.md`), so nothing that does not
//! stand here reaches an endpoint.

/// One route of an OpenAI-compatible server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`
    Completions,
    /// `/v1/embeddings`
    Embeddings,
    /// `/v1/responses`
    Responses,
    /// `/v1/messages`
    Messages,
    /// `/v1/messages/count_tokens`
    CountTokens,
    /// `/v1/audio/transcriptions`
    Transcriptions,
    /// `/v1/audio/translations`
    Translations,
    /// `/v1/score`
    Score,
    /// `/v1/rerank`
    Rerank,
    /// `/pooling`
    Pooling,
    /// `/classify`
    Classify,
    /// `/tokenize`
    Tokenize,
    /// `/detokenize`
    Detokenize,
    /// `/runpod/…`: a RunPod job of the client's own. See [`crate::native`].
    Job,
}

/// How a stream speaks: which events prove it whole, and how it reports an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Chat chunks (and transcription chunks, which have the same shape).
    Chat,
    /// Completions: `choices[].text`.
    Completions,
    /// The Responses API: named events, `response.completed` at the end.
    Responses,
    /// The Messages API: named events, `message_stop` at the end.
    Messages,
    /// Answers that never stream.
    Whole,
    /// RunPod's JSON; as a stream, one event for each output.
    Job,
}

impl Api {
    /// Every route of a server that speaks OpenAI's HTTP.
    pub const ALL: [Self; 14] = [
        Self::Chat,
        Self::Completions,
        Self::Embeddings,
        Self::Responses,
        Self::Messages,
        Self::CountTokens,
        Self::Transcriptions,
        Self::Translations,
        Self::Score,
        Self::Rerank,
        Self::Pooling,
        Self::Classify,
        Self::Tokenize,
        Self::Detokenize,
    ];

    /// The route at exactly this path; no decoding, no normalising, hence no tricks with paths.
    pub fn at(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|api| api.path() == path)
    }

    /// Its path, on the gateway and below an endpoint's root.
    pub const fn path(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
            Self::Embeddings => "/v1/embeddings",
            Self::Responses => "/v1/responses",
            Self::Messages => "/v1/messages",
            Self::CountTokens => "/v1/messages/count_tokens",
            Self::Transcriptions => "/v1/audio/transcriptions",
            Self::Translations => "/v1/audio/translations",
            Self::Score => "/v1/score",
            Self::Rerank => "/v1/rerank",
            Self::Pooling => "/pooling",
            Self::Classify => "/classify",
            Self::Tokenize => "/tokenize",
            Self::Detokenize => "/detokenize",
            Self::Job => "/runpod",
        }
    }

    /// How its streams and errors speak.
    pub const fn dialect(self) -> Dialect {
        match self {
            Self::Chat | Self::Transcriptions | Self::Translations => Dialect::Chat,
            Self::Completions => Dialect::Completions,
            Self::Responses => Dialect::Responses,
            Self::Messages | Self::CountTokens => Dialect::Messages,
            Self::Job => Dialect::Job,
            _ => Dialect::Whole,
        }
    }

    /// Whether a request may ask for a stream here.
    pub const fn streams(self) -> bool {
        !matches!(self, Self::CountTokens) && !matches!(self.dialect(), Dialect::Whole)
    }

    /// Whether an answer is made of choices, with a text each.
    pub const fn has_choices(self) -> bool {
        matches!(self, Self::Chat | Self::Completions)
    }

    /// Whether the request is a form with a file, not JSON.
    pub const fn takes_form(self) -> bool {
        matches!(self, Self::Transcriptions | Self::Translations)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_path_is_a_route() {
        assert_eq!(Api::at("/v1/chat/completions"), Some(Api::Chat));
        for trick in [
            "/v1/chat/completions/",
            "//v1/chat/completions",
            "/V1/chat/completions",
            "/v1/%63hat/completions",
            "/metrics",
            "/v1/chat/completions/../../metrics",
            "",
        ] {
            assert_eq!(Api::at(trick), None, "{trick}");
        }
    }
}
