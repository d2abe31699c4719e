//! The structures of `CONFIG`: every field with what it means, its default and its bounds.
//!
//! The comments are what operators read in their editor and in docs/configuration.md. Defaults and bounds stand here
//! for the schema; those that count are in [`crate::policy`] and [`crate::settings`], and a test tries each of them.

use super::{Form, HedgeAfter, List, Named, Reader, name_of, schema};
use serde_json::{Value, json};

forms! {
    /// The configuration of a Fairlead gateway.
    pub struct Config {
        /// The servers that calls can go to.
        endpoints: List<EndpointConfig> = { "required": true, "minItems": 1 },
        /// The names that clients may ask for, and who serves each. The name `*` takes every name that no other entry
        /// has.
        models: List<ModelConfig> = { "required": true, "minItems": 1 },
        /// How calls are carried out, by name. `default` is for entries that name none.
        policies: Named<PolicyConfig>,
        /// Who may come in. Without this and without `open` nobody gets in.
        clients: Option<List<ClientConfig>>,
        /// Lets everybody in, with or without a key, with every model and policy, whatever `clients` says.
        open: bool = { "default": false },
        /// Which pages may call from a browser.
        cors: CorsConfig,
        /// The name of the secret that holds the key to the routes for admins. Without it they are closed.
        admin_key_secret: Option<String> = { "examples": ["ADMIN_KEY"] },
        /// Which calls leave a line in the log.
        log: Option<LogLevel> = { "default": "calls" },
        /// Lets an admin have attempts fail on purpose, by the header `x-fairlead-fault`.
        faults: bool = { "default": false },
    }

    /// One server.
    pub struct EndpointConfig {
        /// How the rest of `CONFIG`, headers and logs call it: up to 200 bytes, without characters beyond Latin-1.
        name: Option<String> = { "required": true, "minLength": 1, "maxLength": 200 },
        /// What kind of server it is.
        provider: Option<Provider> = { "required": true },
        /// How a RunPod endpoint is spoken to. For `runpod` only.
        mode: Option<Mode> = { "default": "jobs" },
        /// Its address as an OpenAI client would write it, with `/v1`; of RunPod `https://api.runpod.ai/v2/{id}`, or
        /// under `load_balancer` `https://{id}.api.runpod.ai`. Without user, query or fragment.
        base_url: Option<String> = { "required": true, "examples": ["https://gpu.example.com/v1"] },
        /// The name of the secret that holds its key, which is sent as `Authorization: Bearer`.
        api_key_secret: Option<String> = { "examples": ["VLLM_API_KEY"] },
        /// The service or VPC binding that its requests go through, for servers without a public address.
        via: Option<String> = { "examples": ["GPU_NETWORK"] },
        /// Calls that it has at a time from one isolate of the Worker, not from all of them. No bound without it.
        max_concurrency: Option<u64> = { "minimum": 1, "maximum": 1_000_000 },
        /// Whether it goes on from a given beginning of an answer, which `resume` may ask. Without it that is tried of
        /// `vllm` where it looks like vLLM, and of no others.
        r#continue: Option<bool>,
        /// Clients may submit and follow its jobs themselves, at `/runpod/{name}/…`. For `runpod` only; needs
        /// `api_key_secret`, and not for `load_balancer`.
        native: Option<bool> = { "default": false },
        /// The longest that a job may run, in milliseconds, whatever is asked for. For `runpod` only.
        max_execution_ms: Option<u64> = { "default": 600_000, "minimum": 5000, "maximum": 604_800_000 },
        /// The longest that a job may exist, in milliseconds from its submission. For `runpod` only.
        max_ttl_ms: Option<u64> = { "default": 3_600_000, "minimum": 10_000, "maximum": 604_800_000 },
        /// Fetches that one call may make. 45 fits the 50 of Cloudflare's free plan.
        max_subrequests: Option<u64> = { "default": 1000, "minimum": 10, "maximum": 10_000 },
        /// What pictures and sounds in a request may stand for.
        media: Option<Media> = { "default": "any" },
    }

    /// One name that clients may ask for.
    pub struct ModelConfig {
        /// The name, or `*` for every other; up to 200 bytes.
        name: Option<String> = { "required": true, "minLength": 1, "maxLength": 200 },
        /// How its targets are chosen from.
        strategy: Option<Strategy> = { "default": "failover" },
        /// Which entry of `policies` its calls follow.
        policy: Option<String> = { "default": "default" },
        /// Who can serve it.
        targets: List<TargetConfig> = { "required": true, "minItems": 1 },
    }

    /// One endpoint that can serve a model.
    pub struct TargetConfig {
        /// The name of an entry of `endpoints`.
        endpoint: Option<String> = { "required": true },
        /// What that endpoint calls the model. Without it, it is asked for what the client has asked for.
        model: Option<String> = { "examples": ["Qwen/Qwen2.5-7B-Instruct"] },
        /// Its share of the calls under `"strategy": "weighted"`. With 0 it is asked when all others have failed.
        weight: Option<u64> = { "default": 1, "minimum": 0, "maximum": 1_000_000 },
    }

    /// How calls are carried out. All times are in milliseconds.
    pub struct PolicyConfig {
        /// Timers that suit a kind of use; other fields override them.
        preset: Option<Preset>,
        /// The whole call: waits, every attempt, the stream.
        deadline_ms: Option<u64> = { "default": 300_000, "minimum": 1, "maximum": 86_400_000 },
        /// From sending to response headers, for streams.
        headers_ms: Option<u64> = { "default": 30_000, "minimum": 1, "maximum": 86_400_000 },
        /// From sending to the first content, for streams. A RunPod job's runs from `IN_PROGRESS`.
        first_token_ms: Option<u64> = { "default": 120_000, "minimum": 1, "maximum": 86_400_000 },
        /// Lengthens `first_token_ms` for each KiB of the request, by at most 120000 in all.
        prefill_ms_per_kib: Option<u64> = { "default": 100, "minimum": 0, "maximum": 86_400_000 },
        /// Silence between bytes of an answer that has begun; doubled for requests with tools or structured output.
        idle_ms: Option<u64> = { "default": 60_000, "minimum": 1, "maximum": 86_400_000 },
        /// Time without content in a stream, however many comments or empty events arrive.
        progress_ms: Option<u64> = { "default": 120_000, "minimum": 1, "maximum": 86_400_000 },
        /// A RunPod job without a worker. Then the next target is asked.
        queue_ms: Option<u64> = { "default": 600_000, "minimum": 1, "maximum": 86_400_000 },
        /// Attempts over all targets, the first included.
        max_attempts: Option<u64> = { "default": 3, "minimum": 1, "maximum": 20 },
        /// Waits between attempts.
        backoff: BackoffConfig,
        /// The longest `Retry-After` that is waited for.
        retry_after_max_ms: Option<u64> = { "default": 30_000, "minimum": 0, "maximum": 86_400_000 },
        /// An SSE comment goes to the client after this much silence.
        keepalive_ms: Option<u64> = { "default": 5000, "minimum": 100, "maximum": 86_400_000 },
        /// A stream that still waits after this long gets its 200 and comments, so that proxies keep the line open.
        commit_after_ms: Option<u64> = { "default": 10_000, "minimum": 0, "maximum": 86_400_000 },
        /// What a call whose deadline comes ends in.
        on_deadline: Option<OnDeadline> = { "default": "error" },
        /// How a stream's bytes travel.
        forward: Option<Forward> = { "default": "checked" },
        /// What becomes of a stream that breaks behind its first content.
        resume: Option<Resume> = { "default": "off" },
        /// Endpoints are asked to stream what the client wants whole, and the answer is put together of the events.
        stream_internally: Option<bool> = { "default": false },
        /// A stream whose first content has not come after so long is asked of the next target as well; `p95`: as long
        /// as 95 % of that endpoint's streams take to begin. Without it never.
        hedge_after_ms: Option<HedgeAfter> = { "minimum": 1, "maximum": 86_400_000 },
        /// At most this share of an entry's streaming calls does so, in each isolate.
        hedge_ratio: Option<f64> = { "default": 0.05, "exclusiveMinimum": 0, "maximum": 1 },
        /// Larger bodies get 413, in bytes.
        max_request_bytes: Option<u64> = { "default": 26_214_400, "minimum": 1, "maximum": 104_857_600 },
        /// When an endpoint is left alone for a while, for an entry of `models`.
        breaker: BreakerConfig,
        /// What repeats cost: tokens in a bucket for each endpoint and isolate.
        budget: BudgetConfig,
    }

    /// Waits between attempts: exponential, with full jitter.
    pub struct BackoffConfig {
        /// The bound of the first wait.
        base_ms: Option<u64> = { "default": 200, "minimum": 0, "maximum": 86_400_000 },
        /// The same after 429 and 503.
        throttled_base_ms: Option<u64> = { "default": 1000, "minimum": 0, "maximum": 86_400_000 },
        /// The bound of every wait.
        max_ms: Option<u64> = { "default": 20_000, "minimum": 0, "maximum": 86_400_000 },
    }

    /// What repeats cost.
    pub struct BudgetConfig {
        /// A full bucket.
        capacity: Option<u64> = { "default": 100, "minimum": 0, "maximum": 1_000_000 },
        /// A repeat after a failure.
        transient_cost: Option<u64> = { "default": 14, "minimum": 0, "maximum": 1_000_000 },
        /// A repeat after 429 or 503.
        throttled_cost: Option<u64> = { "default": 5, "minimum": 0, "maximum": 1_000_000 },
        /// What a success gives back.
        refund: Option<u64> = { "default": 1, "minimum": 0, "maximum": 1_000_000 },
    }

    /// When an endpoint is left alone for a while.
    pub struct BreakerConfig {
        /// Whether it ever is.
        enabled: Option<bool> = { "default": true },
        /// It is at this share of failures,
        failure_ratio: Option<f64> = { "default": 0.5, "exclusiveMinimum": 0, "maximum": 1 },
        /// among at least so many calls,
        min_calls: Option<u64> = { "default": 8, "minimum": 1, "maximum": 1_000_000 },
        /// in so many milliseconds;
        window_ms: Option<u64> = { "default": 120_000, "minimum": 1, "maximum": 86_400_000 },
        /// and at so many failures in a row.
        consecutive: Option<u64> = { "default": 5, "minimum": 1, "maximum": 1_000_000 },
        /// The first opening lasts three quarters of this to all of it.
        open_ms: Option<u64> = { "default": 15_000, "minimum": 1, "maximum": 86_400_000 },
        /// The longest opening; not below `open_ms`.
        max_open_ms: Option<u64> = { "default": 60_000, "minimum": 1, "maximum": 86_400_000 },
        /// The share of calls that are let through as probes when an opening has just passed. It grows from there.
        probe_ratio: Option<f64> = { "default": 0.01, "exclusiveMinimum": 0, "maximum": 1 },
        /// A first content later than this counts as a failure in the share. Without it none does.
        slow_first_token_ms: Option<u64> = { "minimum": 1, "maximum": 86_400_000 },
    }

    /// Somebody with keys.
    pub struct ClientConfig {
        /// What logs and metrics call it; up to 200 bytes.
        name: Option<String> = { "required": true, "minLength": 1, "maxLength": 200 },
        /// The SHA-256 of its keys, 64 hexadecimal digits each. Several, so that keys can be changed without an outage.
        keys_sha256: List<String> = {
            "required": true, "minItems": 1, "items": { "pattern": "^[0-9A-Fa-f]{64}$" }
        },
        /// Names that it may ask for. Without it all.
        models: Option<List<String>>,
        /// Policies that it may ask for by `x-fairlead-policy`.
        policies: List<String>,
        /// Endpoints whose jobs it may use itself; each needs `native`.
        runpod: List<String>,
        /// The rate limiting binding that its calls are counted by. The limit stands in wrangler.toml.
        rate_limiter: Option<String> = { "examples": ["WEB_LIMIT"] },
        /// The period of that binding in milliseconds, 10000 or 60000, which clients are told to wait for.
        rate_limiter_period_ms: Option<u64> = { "default": 60_000, "enum": [10_000, 60_000] },
        /// Calls in any minute, by the count of one isolate of the Worker, not of all of them.
        requests_per_minute: Option<u64> = { "minimum": 1, "maximum": 1_000_000_000 },
        /// Calls at a time, by the count of one isolate of the Worker, not of all of them.
        max_concurrency: Option<u64> = { "minimum": 1, "maximum": 1_000_000_000 },
        /// Tokens of one answer.
        max_tokens: Option<u64> = { "minimum": 1, "maximum": 1_000_000_000 },
        /// Choices of one answer.
        max_n: Option<u64> = { "minimum": 1, "maximum": 1_000_000_000 },
    }

    /// Which pages may call from a browser.
    pub struct CorsConfig {
        /// Origins such as `https://app.example.com`, without a path; or `*` for all.
        origins: List<String> = { "examples": [["https://app.example.com"]] },
    }
}

words! {
    /// What kind of server an endpoint is.
    pub enum Provider else Vllm {
        /// vLLM, or any OpenAI-compatible server.
        Vllm = "vllm",
        /// RunPod serverless.
        Runpod = "runpod",
        /// A gateway of our own.
        Fairlead = "fairlead",
    }

    /// How a RunPod endpoint is spoken to.
    pub enum Mode else Jobs {
        /// `/run`, `/status`, `/stream`, `/cancel`.
        Jobs = "jobs",
        /// RunPod's own OpenAI proxy.
        Openai = "openai",
        /// A load-balancer endpoint.
        LoadBalancer = "load_balancer",
    }

    /// Which calls leave a line in the log.
    pub enum LogLevel else Calls {
        /// All of them.
        Calls = "calls",
        /// Those that did not end well, or needed more than one attempt.
        Failures = "failures",
        /// None. What concerns the gateway itself is still said.
        Off = "off",
    }

    /// What pictures and sounds in a request may stand for.
    pub enum Media else Any {
        /// Addresses as well, which the server fetches, from inside its own network.
        Any = "any",
        /// `data:` URLs only.
        Data = "data",
    }

    /// How a model's targets are chosen from.
    pub enum Strategy else Failover {
        /// In order.
        Failover = "failover",
        /// At random, by weight.
        Weighted = "weighted",
        /// The least busy first.
        LeastLoaded = "least_loaded",
    }

    /// Timers that suit a kind of use; other fields override them.
    pub enum Preset {
        /// Short answers that somebody waits for.
        Simple = "simple",
        /// Code.
        Code = "code",
        /// Long documents.
        Document = "document",
        /// Models that think first.
        Reasoning = "reasoning",
    }

    /// What a call whose deadline comes ends in.
    pub enum OnDeadline {
        /// An error.
        Error = "error",
        /// What there is.
        Partial = "partial",
    }

    /// How a stream's bytes travel.
    pub enum Forward {
        /// Every chunk is seen before it goes on.
        Checked = "checked",
        /// By the platform's own pipe, checked behind it.
        Native = "native",
    }

    /// What to do when a stream breaks behind its first content.
    pub enum Resume {
        /// End in an error.
        Off = "off",
        /// Ask a target to go on.
        Continue = "continue",
        /// Ask again from the start and compare.
        Verify = "verify",
    }
}
