//! The objects of an answer: what each has in any case, and what becomes of a member that comes again.

use super::object::{Object, Part};

/// The objects of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Chat,
    Completion,
    ChatChoice,
    CompletionChoice,
    Message,
    ToolCall,
    Function,
    /// Any other that grows.
    Other,
}

/// What becomes of a member that comes again.
pub(super) enum Rule {
    /// The last one counts, unless it is empty.
    Last,
    /// Texts and lists go on.
    Join,
    /// Its members are merged.
    Object(Kind),
    /// Its objects are merged by their `index`.
    List(Kind),
    /// It is known already.
    Skip,
}

impl Kind {
    /// What a whole answer has in any case, in its order.
    pub(super) const fn form(self) -> &'static str {
        match self {
            Self::Chat => {
                "id object created model choices service_tier system_fingerprint usage prompt_logprobs \
                 prompt_token_ids prompt_text kv_transfer_params ec_transfer_params metrics"
            }
            Self::Completion => {
                "id object created model choices service_tier system_fingerprint usage \
                 kv_transfer_params ec_transfer_params metrics"
            }
            Self::ChatChoice => "index message logprobs finish_reason stop_reason token_ids routed_experts",
            Self::CompletionChoice => {
                "index text logprobs finish_reason stop_reason token_ids prompt_logprobs prompt_token_ids"
            }
            Self::Message => "role content refusal annotations audio function_call",
            Self::ToolCall => "id type function",
            Self::Function => "name arguments",
            Self::Other => "",
        }
    }

    /// How a member of the form begins.
    pub(super) fn beginning(self, key: &str) -> Part {
        match (self, key) {
            (Self::Chat, "object") => Part::Value("\"chat.completion\"".to_owned()),
            (Self::Completion, "object") => Part::Value("\"text_completion\"".to_owned()),
            (Self::Chat | Self::Completion, "choices") => Part::List(Vec::new()),
            (Self::ChatChoice, "message") => Part::Object(Object::new(Self::Message)),
            (Self::CompletionChoice, "text") | (Self::Function, "arguments") => Part::Text(String::new()),
            _ => Part::nothing(),
        }
    }

    pub(super) fn rule(self, key: &str) -> Rule {
        match (self, key) {
            (Self::Chat, "choices") => Rule::List(Self::ChatChoice),
            (Self::Completion, "choices") => Rule::List(Self::CompletionChoice),
            (Self::Chat | Self::Completion, "object") => Rule::Skip,
            (Self::ChatChoice | Self::CompletionChoice | Self::ToolCall, "index") => Rule::Skip,
            (Self::ChatChoice, "message") => Rule::Object(Self::Message),
            (Self::ChatChoice | Self::CompletionChoice, "logprobs") => Rule::Object(Self::Other),
            (Self::ChatChoice | Self::CompletionChoice, "text" | "token_ids") => Rule::Join,
            (Self::Message, "tool_calls") => Rule::List(Self::ToolCall),
            (Self::Message, "function_call") | (Self::ToolCall, "function") => Rule::Object(Self::Function),
            (Self::Message, "audio") | (Self::ToolCall, "custom") => Rule::Object(Self::Other),
            (Self::Message | Self::Function | Self::Other, "id" | "name" | "role" | "type") => Rule::Last,
            (Self::Message | Self::Function | Self::Other, _) => Rule::Join,
            _ => Rule::Last,
        }
    }
}
