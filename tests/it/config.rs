//! `CONFIG` as operators write it: a full example, and every mistake at once.

use fairlead_core::{
    config::HedgeAfter,
    policy::Hedge,
    settings::{Environment, Reading, Settings},
};
use serde_json::{Value, json};

/// A full example, with a real hash in the place of `<hex>`.
const EXAMPLE: &str = r#"{
  "endpoints": [
    { "name": "a100",  "provider": "vllm",   "base_url": "https://a100.example.com/v1", "api_key_secret": "VLLM_API_KEY", "max_concurrency": 32 },
    { "name": "burst", "provider": "runpod", "mode": "jobs", "base_url": "https://api.runpod.ai/v2/abc123", "api_key_secret": "RUNPOD_API_KEY", "native": true }
  ],
  "models": [
    { "name": "qwen", "strategy": "failover", "policy": "default",
      "targets": [ { "endpoint": "a100", "model": "Qwen/Qwen2.5-7B-Instruct" }, { "endpoint": "burst" } ] },
    { "name": "*", "targets": [ { "endpoint": "a100" } ] }
  ],
  "policies": { "default": { "deadline_ms": 300000 }, "chat-ui": { "preset": "simple", "idle_ms": 8000 } },
  "clients": [ { "name": "web", "keys_sha256": ["ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"], "models": ["qwen"], "policies": ["chat-ui"], "runpod": ["burst"], "rate_limiter": "WEB_LIMIT" } ],
  "open": false,
  "cors": { "origins": ["https://app.example.com"] },
  "admin_key_secret": "ADMIN_KEY"
}"#;

/// Every secret that the example names, and one tunnel.
struct Worker;

impl Environment for Worker {
    fn secret(&self, name: &str) -> Option<String> {
        match name {
            "VLLM_API_KEY" | "RUNPOD_API_KEY" | "ADMIN_KEY" => Some(format!("hush-{name}")),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    fn has_service(&self, name: &str) -> bool {
        name == "TUNNEL"
    }

    fn has_rate_limiter(&self, name: &str) -> bool {
        name == "WEB_LIMIT"
    }
}

fn read(config: Value) -> Reading {
    Settings::read([("CONFIG".to_owned(), config)], &Worker)
}

/// The paths of what was found, in order.
fn paths(found: &[fairlead_core::config::Mistake]) -> Vec<&str> {
    let mut paths: Vec<&str> = found.iter().map(|mistake| mistake.path.as_str()).collect();
    paths.sort_unstable();
    paths
}

/// The example, changed.
fn example_with(change: impl Fn(&mut Value)) -> Reading {
    let mut config = serde_json::from_str(EXAMPLE).unwrap();
    change(&mut config);
    read(config)
}

#[test]
fn a_full_example_is_read_without_a_mistake() {
    for config in [Value::from(EXAMPLE), serde_json::from_str(EXAMPLE).unwrap()] {
        let reading = read(config);
        assert_eq!(reading.mistakes, []);
        assert_eq!(paths(&reading.warnings), [""; 0]);
        let settings = reading.settings.unwrap();
        let qwen = settings.model("qwen").unwrap();
        assert!(qwen.targets[1].endpoint.takes_jobs() && qwen.targets[1].endpoint.native);
        assert_eq!(settings.clients[0].runpod, ["burst"]);
        assert_eq!(qwen.targets[0].endpoint.root, "https://a100.example.com");
        assert_eq!(qwen.targets[0].model.as_deref(), Some("Qwen/Qwen2.5-7B-Instruct"));
        assert_eq!(settings.model("anything else").unwrap().name, "*");
        assert_eq!(settings.policy("chat-ui").unwrap().idle_ms, 8000);
        assert_eq!(settings.policy("chat-ui").unwrap().first_token_ms, 15_000);
        assert_eq!(settings.origins, ["https://app.example.com"]);
        assert!(settings.admin_key.is_some() && !settings.open);
    }
}

#[test]
fn every_mistake_is_found_at_once_each_with_its_path() {
    let reading = read(json!({
        "endpoints": [
            { "name": "a", "provider": "vllm", "base_url": "https://a.example.com/v1", "api_key_secret": "NOT_SET" },
            { "name": "a", "provider": "vllm", "base_url": "ftp://a.example.com" },
            { "name": "b", "provider": "openai", "base_url": "https://b.example.com", "via": "NOT_BOUND" },
            { "provider": "vllm", "base_url": "https://user:word@c.example.com" },
            { "name": "d", "provider": "vllm", "base_url": "https://d.example.com/v1?x=1", "api_key_secret": "EMPTY" },
            { "name": "e", "base_url": "/v1", "mode": "batch" },
            7,
        ],
        "models": [
            { "name": "m", "policy": "nowhere", "targets": [{ "endpoint": "a", "modle": "x" }] },
            { "name": "m", "targets": [] },
            { "name": "n", "strategy": "fastest", "targets": [{}] },
        ],
        "policies": { "p": { "deadline_ms": 0, "idel_ms": 5, "max_attempts": 21, "preset": "quick" } },
        "clients": [
            { "name": "web", "keys_sha256": ["secret"], "models": ["nobody"], "policies": ["nothing"], "runpod": ["z"] },
            { "name": "app" },
        ],
        "cors": { "origins": ["app.example.com", "https://app.example.com/path"] },
        "admin_key_secret": "NOT_SET_EITHER",
        "opne": true,
    }));
    assert!(reading.settings.is_none());
    assert_eq!(
        paths(&reading.mistakes),
        [
            "admin_key_secret",
            "clients[0].keys_sha256[0]",
            "clients[0].models[0]",
            "clients[0].policies[0]",
            "clients[0].runpod[0]",
            "clients[1].keys_sha256",
            "cors.origins[0]",
            "cors.origins[1]",
            "endpoints[0].api_key_secret",
            "endpoints[1].base_url",
            "endpoints[1].name",
            "endpoints[2].provider",
            "endpoints[2].via",
            "endpoints[3].base_url",
            "endpoints[3].name",
            "endpoints[4].api_key_secret",
            "endpoints[4].base_url",
            "endpoints[5].base_url",
            "endpoints[5].mode",
            "endpoints[5].provider",
            "endpoints[6]",
            "models[0].policy",
            "models[0].targets[0].modle",
            "models[1].name",
            "models[1].targets",
            "models[2].strategy",
            "models[2].targets[0].endpoint",
            "opne",
            "policies.p.deadline_ms",
            "policies.p.idel_ms",
            "policies.p.max_attempts",
            "policies.p.preset",
        ],
        "{:#?}",
        reading.mistakes
    );
}

#[test]
fn a_target_that_names_no_endpoint_is_a_mistake() {
    let reading = example_with(|config| config["models"][1]["targets"][0]["endpoint"] = "a1000".into());
    assert_eq!(paths(&reading.mistakes), ["models[1].targets[0].endpoint"]);
    assert!(reading.mistakes[0].message.contains("`a1000`"));
}

#[test]
fn what_only_runpod_endpoints_have_is_checked() {
    let reading = example_with(|config| {
        config["endpoints"][0]["native"] = true.into();
        config["endpoints"][0]["max_ttl_ms"] = 60_000.into();
        config["endpoints"][1]["max_execution_ms"] = 4999.into();
        config["endpoints"][1]["max_subrequests"] = 9.into();
        config["endpoints"][1].as_object_mut().unwrap().remove("api_key_secret");
        config["clients"][0]["runpod"] = json!(["burst", "a100"]);
    });
    let expected = [
        "clients[0].runpod[1]",
        "endpoints[0].max_ttl_ms",
        "endpoints[0].native",
        "endpoints[1].api_key_secret",
        "endpoints[1].max_execution_ms",
        "endpoints[1].max_subrequests",
    ];
    assert_eq!(paths(&reading.mistakes), expected, "{:?}", reading.mistakes);
    let reading = example_with(|config| config["endpoints"][1]["mode"] = "load_balancer".into());
    assert_eq!(paths(&reading.mistakes), ["endpoints[1].native"], "{:?}", reading.mistakes);
}

#[test]
fn an_open_gateway_with_clients_is_warned_about() {
    let reading = example_with(|config| config["open"] = true.into());
    assert!(reading.settings.is_some() && paths(&reading.warnings).contains(&"open"), "{:?}", reading.warnings);
}

#[test]
fn a_key_belongs_to_one_client() {
    let reading = example_with(|config| {
        let first = config["clients"][0].clone();
        config["clients"].as_array_mut().unwrap().push(first);
        config["clients"][1]["name"] = "other".into();
    });
    assert_eq!(paths(&reading.mistakes), ["clients[1].keys_sha256[0]"]);
    assert!(reading.mistakes[0].message.contains("`web`"), "{}", reading.mistakes[0]);
}

#[test]
fn a_secret_in_the_place_of_its_name_is_not_repeated() {
    for (name, repeated) in [("VLLM_KEY_2", true), ("sk-0123456789abcdef", false)] {
        let reading = example_with(|config| config["admin_key_secret"] = name.into());
        assert_eq!(paths(&reading.mistakes), ["admin_key_secret"]);
        assert_eq!(reading.mistakes[0].message.contains(name), repeated, "{name}");
    }
}

#[test]
fn what_is_missing_altogether_is_said() {
    assert_eq!(paths(&read(json!({})).mistakes), ["endpoints", "models"]);
    for wrong in [json!([]), json!(7), json!("not json"), Value::Null] {
        let reading = read(wrong.clone());
        assert!(reading.settings.is_none() && paths(&reading.mistakes).contains(&"CONFIG"), "{wrong}: {reading:?}");
    }
    assert_eq!(paths(&Settings::read([], &Worker).mistakes), ["CONFIG"]);
}

#[test]
fn a_key_of_config_may_stand_in_a_binding_of_its_own() {
    let mut config: Value = serde_json::from_str(EXAMPLE).unwrap();
    let clients = config.as_object_mut().unwrap().remove("clients").unwrap();
    let parts = |clients: Value| [("CONFIG".to_owned(), config.clone()), ("CONFIG_CLIENTS".to_owned(), clients)];
    for clients in [clients.clone(), Value::from(clients.to_string())] {
        let settings = Settings::read(parts(clients), &Worker).settings.unwrap();
        assert_eq!(settings.clients[0].name, "web");
    }
    let twice = [("CONFIG".to_owned(), EXAMPLE.into()), ("CONFIG_CLIENTS".to_owned(), clients)];
    assert_eq!(paths(&Settings::read(twice, &Worker).mistakes), ["clients"]);
}

#[test]
fn every_kind_of_endpoint_gets_its_own_addresses() {
    let root = |endpoint: Value| {
        let reading = example_with(|config| {
            config["endpoints"][0] = endpoint.clone();
            config["endpoints"][0]["name"] = "a100".into();
        });
        let settings = reading.settings.unwrap_or_else(|| panic!("{endpoint}: {:?}", reading.mistakes));
        let endpoint = &settings.model("*").unwrap().targets[0].endpoint;
        format!("{} {}", endpoint.root, endpoint.prefix)
    };
    let vllm = |url: &str| root(json!({ "provider": "vllm", "base_url": url }));
    assert_eq!(vllm("https://gpu.example.com/v1"), "https://gpu.example.com /v1");
    assert_eq!(vllm("https://gpu.example.com/v1/"), "https://gpu.example.com /v1");
    assert_eq!(vllm("http://10.0.0.7:8000/v1"), "http://10.0.0.7:8000 /v1");
    assert_eq!(vllm("https://gateway.example.com/openai"), "https://gateway.example.com/openai ");
    let gateway = json!({ "provider": "fairlead", "base_url": "https://llm.example.com/v1" });
    assert_eq!(root(gateway), "https://llm.example.com /v1");
    let runpod = |mode: &str, url: &str| root(json!({ "provider": "runpod", "mode": mode, "base_url": url }));
    assert_eq!(runpod("openai", "https://api.runpod.ai/v2/id"), "https://api.runpod.ai/v2/id /openai/v1");
    assert_eq!(runpod("load_balancer", "https://id.api.runpod.ai"), "https://id.api.runpod.ai /v1");
    let tunnelled = json!({ "provider": "vllm", "base_url": "http://gpu/v1", "via": "TUNNEL" });
    assert_eq!(root(tunnelled), "http://gpu /v1");
}

#[test]
fn every_field_of_a_policy_is_known() {
    let reading = example_with(|config| {
        config["policies"]["default"] = json!({
            "preset": "code", "deadline_ms": 1, "headers_ms": 1, "first_token_ms": 1, "prefill_ms_per_kib": 0,
            "idle_ms": 1, "progress_ms": 1, "queue_ms": 1, "max_attempts": 1,
            "backoff": { "base_ms": 0, "throttled_base_ms": 0, "max_ms": 0 }, "retry_after_max_ms": 0,
            "keepalive_ms": 100, "commit_after_ms": 0, "on_deadline": "error", "forward": "checked",
            "resume": "off", "stream_internally": false, "hedge_after_ms": 1, "hedge_ratio": 0.05,
            "max_request_bytes": 1,
            "breaker": {
                "failure_ratio": 0.5, "min_calls": 8, "window_ms": 1, "consecutive": 5, "open_ms": 1, "max_open_ms": 1,
                "enabled": true, "probe_ratio": 0.01, "slow_first_token_ms": 1
            },
            "budget": { "capacity": 0, "transient_cost": 0, "throttled_cost": 0, "refund": 0 },
        });
    });
    assert_eq!(reading.mistakes, []);
    let warned: Vec<&str> = paths(&reading.warnings).into_iter().filter(|path| path.starts_with("policies")).collect();
    assert_eq!(warned, [""; 0]);
}

#[test]
fn when_a_call_hedges_is_a_time_or_the_95th_percentile() {
    let hedge = |fields: Value| {
        let reading = example_with(|config| config["policies"]["default"] = fields.clone());
        let mistakes = reading.mistakes;
        reading
            .settings
            .unwrap_or_else(|| panic!("{mistakes:?}"))
            .policies
            .iter()
            .find(|(name, _)| name == "default")
            .unwrap()
            .1
            .hedge
    };
    let by = |after, share_ppm| Some(Hedge { after, share_ppm });
    assert_eq!(hedge(json!({})), None);
    assert_eq!(hedge(json!({ "hedge_ratio": 0.5 })), None);
    assert_eq!(hedge(json!({ "hedge_after_ms": 700 })), by(HedgeAfter::Ms(700), 50_000));
    assert_eq!(hedge(json!({ "hedge_after_ms": "p95", "hedge_ratio": 1 })), by(HedgeAfter::P95, 1_000_000));
    for (field, value, message) in [
        ("hedge_after_ms", json!(0), "is 0; it must be from 1 to 86400000"),
        ("hedge_after_ms", json!(86_400_001), "is 86400001; it must be from 1 to 86400000"),
        ("hedge_after_ms", json!("p99"), "must be a whole number of at least 1, or `p95`, not a string"),
        ("hedge_after_ms", json!(0.5), "must be a whole number of at least 1, or `p95`, not another number"),
        ("hedge_ratio", json!(0), "must be above 0 and at most 1"),
        ("hedge_ratio", json!(5), "must be above 0 and at most 1"),
        ("hedge_ratio", json!("5 %"), "must be a number, not a string"),
    ] {
        let told = said("/policies/default", &json!({ field: value }));
        assert_eq!(told, [format!("policies.default.{field}: {message}")]);
    }
}

/// What `npm run check` says of the example with this value at this place.
fn said(pointer: &str, value: &Value) -> Vec<String> {
    let reading = example_with(|config| {
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        config.pointer_mut(parent).unwrap()[field] = value.clone();
    });
    reading.mistakes.iter().map(ToString::to_string).collect()
}

#[test]
fn wrong_numbers_of_breakers_strategies_and_places_are_told_with_their_bounds() {
    let ratio = "must be above 0 and at most 1";
    for (field, value, message) in [
        ("failure_ratio", json!(0), ratio),
        ("failure_ratio", json!(50), ratio),
        ("failure_ratio", json!(-0.5), ratio),
        ("probe_ratio", json!(1.001), ratio),
        ("min_calls", json!(0), "is 0; it must be from 1 to 1000000"),
        ("consecutive", json!(0), "is 0; it must be from 1 to 1000000"),
        ("window_ms", json!(0), "is 0; it must be from 1 to 86400000"),
        ("open_ms", json!(86_400_001), "is 86400001; it must be from 1 to 86400000"),
        ("max_open_ms", json!(14_999), "is 14999; it must be from 15000 to 86400000"),
        ("slow_first_token_ms", json!(0), "is 0; it must be from 1 to 86400000"),
    ] {
        let told = said("/policies/default/breaker", &json!({ field: value }));
        assert_eq!(told, [format!("policies.default.breaker.{field}: {message}")]);
    }
    let told = said("/policies/default/breaker", &json!({ "open_ms": 40_000, "max_open_ms": 30_000 }));
    assert_eq!(told, ["policies.default.breaker.max_open_ms: is 30000; it must be from 40000 to 86400000"]);
    assert_eq!(said("/policies/default/breaker", &json!({ "open_ms": 300_000 })), [""; 0], "a long one may be");
    for (pointer, value, path) in [
        ("/endpoints/0/max_concurrency", 0, "endpoints[0].max_concurrency: is 0; it must be from 1 to 1000000"),
        (
            "/models/0/targets/1/weight",
            1_000_001,
            "models[0].targets[1].weight: is 1000001; it must be from 0 to 1000000",
        ),
    ] {
        assert_eq!(said(pointer, &value.into()), [path]);
    }
}

#[test]
fn what_breakers_strategies_and_places_cannot_be_is_told_by_its_path() {
    for (pointer, value, path) in [
        ("/policies/default/breaker", json!(true), "policies.default.breaker"),
        ("/policies/default/breaker", json!({ "enabled": "no" }), "policies.default.breaker.enabled"),
        ("/policies/default/breaker", json!({ "failure_ratio": "half" }), "policies.default.breaker.failure_ratio"),
        ("/policies/default/breaker", json!({ "min_calls": 2.5 }), "policies.default.breaker.min_calls"),
        ("/policies/default/breaker", json!({ "half_open": 3 }), "policies.default.breaker.half_open"),
        ("/endpoints/0/max_concurrency", json!(-1), "endpoints[0].max_concurrency"),
        ("/models/0/targets/0/weight", json!("much"), "models[0].targets[0].weight"),
        ("/models/0/strategy", json!("round_robin"), "models[0].strategy"),
    ] {
        let told = said(pointer, &value);
        assert!(matches!(&told[..], [one] if one.starts_with(&format!("{path}: "))), "{path}: {told:?}");
    }
    let told = said("/models/0/strategy", &json!("round_robin"));
    assert!(["failover", "weighted", "least_loaded"].iter().all(|name| told[0].contains(name)), "{told:?}");
}

#[test]
fn a_weight_that_has_no_effect_is_warned_about() {
    for (strategy, warned) in [("failover", true), ("least_loaded", true), ("weighted", false)] {
        let reading = example_with(|config| {
            config["models"][0]["strategy"] = strategy.into();
            config["models"][0]["targets"][0]["weight"] = 3.into();
        });
        let settings = reading.settings.unwrap();
        assert_eq!(settings.models[0].targets.iter().map(|target| target.weight).collect::<Vec<_>>(), [3, 1]);
        assert_eq!(paths(&reading.warnings).contains(&"models[0].targets[0].weight"), warned, "{strategy}");
    }
}

#[test]
fn secrets_are_not_shown_by_what_holds_them() {
    let reading = read(EXAMPLE.into());
    assert!(!format!("{reading:?}").contains("hush"));
    let settings = reading.settings.unwrap();
    let key = settings.model("qwen").unwrap().targets[0].endpoint.api_key.as_ref().unwrap();
    assert_eq!(key.reveal(), "hush-VLLM_API_KEY");
}

#[test]
fn an_endpoints_name_fits_into_a_header_field() {
    let named = |name: &str| {
        let reading = read(json!({
            "endpoints": [{ "name": name, "provider": "vllm", "base_url": "https://a" }],
            "models": [{ "name": "*", "targets": [{ "endpoint": name }] }],
        }));
        reading.mistakes.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(named("gpu é 1"), Vec::<String>::new());
    for name in ["服务器", "a\nb"] {
        assert_eq!(
            named(name),
            ["endpoints[0].name: stands in header fields, which hold no characters beyond Latin-1"]
        );
    }
}

#[test]
fn a_name_fits_into_a_key_of_the_store() {
    let named = |length: usize| {
        let reading = example_with(|config| {
            config["models"][0]["name"] = json!("m".repeat(length));
            config["clients"][0]["models"] = json!(["m".repeat(length)]);
        });
        reading.mistakes.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(named(200), Vec::<String>::new());
    assert_eq!(named(201), ["models[0].name: is 201 bytes long; it must be at most 200"]);
}
