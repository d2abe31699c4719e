//! The objects of an answer: what becomes of a member that comes again, and what each has in any case.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Chat,
    Completion,
    ChatChoice,
    CompletionChoice,
    Message,
    ToolCall,
    Function,
    Usage,
    /// Any other that grows.
    Other,
}

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
    pub(super) fn rule(self, key: &str) -> Rule {
        match self {
            Self::Chat | Self::Completion => match key {
                "choices" if self == Self::Chat => Rule::List(Self::ChatChoice),
                "choices" => Rule::List(Self::CompletionChoice),
                "usage" => Rule::Object(Self::Usage),
                _ => Rule::Last,
            },
            Self::ChatChoice | Self::CompletionChoice => match key {
                "index" => Rule::Skip,
                "message" => Rule::Object(Self::Message),
                "logprobs" => Rule::Object(Self::Other),
                "text" | "token_ids" => Rule::Join,
                _ => Rule::Last,
            },
            Self::ToolCall => match key {
                "index" => Rule::Skip,
                "function" => Rule::Object(Self::Function),
                "custom" => Rule::Object(Self::Other),
                _ => Rule::Last,
            },
            Self::Usage => Rule::Last,
            Self::Message | Self::Function | Self::Other => match key {
                "tool_calls" if self == Self::Message => Rule::List(Self::ToolCall),
                "function_call" if self == Self::Message => Rule::Object(Self::Function),
                "audio" if self == Self::Message => Rule::Object(Self::Other),
                "id" | "name" | "role" | "type" => Rule::Last,
                _ => Rule::Join,
            },
        }
    }

    /// What vLLM's whole answer has in it even where nothing is to be said.
    pub(super) const fn form(self) -> &'static str {
        match self {
            Self::Chat => {
                "service_tier system_fingerprint usage prompt_logprobs prompt_token_ids prompt_text \
                 kv_transfer_params ec_transfer_params metrics"
            }
            Self::Completion => "service_tier system_fingerprint usage kv_transfer_params ec_transfer_params metrics",
            Self::ChatChoice => "logprobs finish_reason stop_reason token_ids routed_experts",
            Self::CompletionChoice => {
                "text logprobs finish_reason stop_reason token_ids prompt_logprobs prompt_token_ids"
            }
            Self::Message => "content refusal annotations audio function_call",
            Self::Function => "arguments",
            Self::Usage => "prompt_tokens_details completion_tokens_details",
            Self::ToolCall | Self::Other => "",
        }
    }
}
