//! The counts in Prometheus' text format, version 0.0.4.

use super::{Histogram, Journal};
use crate::{
    fleet::{Fleet, Which},
    settings::Settings,
    status::entries_of,
    time::Instant,
};
use std::fmt::{Display, Write};

/// All that `GET /metrics` tells, each metric with what it is.
pub fn prometheus(journal: &Journal, settings: &Settings, fleet: &mut Fleet, now: Instant) -> String {
    let mut page = Page::default();

    page.begin(
        "fairlead_calls_total",
        "counter",
        "Requests to a client's route; without a model those that came to none.",
    );
    for model in journal.models() {
        for call in &model.calls {
            let labels =
                [("route", call.route), ("model", &model.name), ("client", &call.client), ("outcome", &call.outcome)];
            page.sample("", &labels, call.count);
        }
    }
    // What came to no model has not been measured for the sake of a model.
    let models = || journal.models().iter().filter(|model| !model.name.is_empty());
    page.begin("fairlead_call_seconds", "histogram", "From a request's arrival to its end.");
    models().for_each(|model| page.histogram(("model", &model.name), &model.total));
    page.begin(
        "fairlead_first_content_seconds",
        "histogram",
        "From a request's arrival to the first content of its answer.",
    );
    models().for_each(|model| page.histogram(("model", &model.name), &model.first_content));
    page.begin("fairlead_tokens_total", "counter", "Tokens, as far as endpoints told.");
    for model in models() {
        page.sample("", &[("model", &model.name), ("kind", "prompt")], model.prompt_tokens);
        page.sample("", &[("model", &model.name), ("kind", "completion")], model.completion_tokens);
    }
    page.begin("fairlead_bytes_total", "counter", "Bytes that clients were sent.");
    models().for_each(|model| page.sample("", &[("model", &model.name)], model.bytes));

    page.begin("fairlead_attempts_total", "counter", "Attempts of calls that have ended, by what became of them.");
    for endpoint in journal.endpoints() {
        for (outcome, count) in &endpoint.attempts {
            page.sample("", &[("endpoint", &endpoint.name), ("outcome", outcome)], *count);
        }
    }
    let workers = || journal.endpoints().iter().filter(|endpoint| endpoint.jobs.queue.count() > 0);
    page.begin("fairlead_job_queue_seconds", "histogram", "RunPod jobs that have run: their time in the queue.");
    workers().for_each(|endpoint| page.histogram(("endpoint", &endpoint.name), &endpoint.jobs.queue));
    page.begin("fairlead_job_execution_seconds", "histogram", "RunPod jobs that have run: their time at work.");
    workers().for_each(|endpoint| page.histogram(("endpoint", &endpoint.name), &endpoint.jobs.execution));

    page.begin("fairlead_in_flight", "gauge", "Calls at an endpoint now.");
    for (index, endpoint) in &settings.endpoints {
        page.sample("", &[("endpoint", &endpoint.name)], fleet.load(*index).in_flight(now));
    }
    page.begin(
        "fairlead_breaker_open",
        "gauge",
        "Whether an endpoint is left alone, for all (no entry) or for an entry of `models`.",
    );
    for (index, endpoint) in &settings.endpoints {
        let whole = Which { endpoint: *index, entry: None };
        let isolated = fleet.gate(whole).breaker.is_isolated();
        page.sample("", &[("endpoint", &endpoint.name), ("entry", "")], u8::from(isolated));
        for entry in entries_of(settings, *index) {
            let policy = entry.policy.breaker.clone().unwrap_or_default();
            let state = fleet.gate(Which { entry: entry.index, ..whole }).breaker.view(now, &policy).state;
            let open = entry.policy.breaker.is_some() && state == "open";
            page.sample("", &[("endpoint", &endpoint.name), ("entry", &entry.name)], u8::from(open));
        }
    }
    page.begin("fairlead_isolate_start_seconds", "gauge", "When the isolate began that tells all this, in Unix time.");
    page.sample("", &[], Seconds(journal.since().as_millis()));
    page.text
}

#[derive(Default)]
struct Page {
    text: String,
    /// The metric that is being told.
    name: &'static str,
}

impl Page {
    fn begin(&mut self, name: &'static str, kind: &str, help: &str) {
        self.name = name;
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    fn sample(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
        let name = self.name;
        self.write(format_args!("{name}{suffix}"));
        for (place, (label, value)) in labels.iter().enumerate() {
            let mark = if place == 0 { '{' } else { ',' };
            self.write(format_args!("{mark}{label}=\"{}\"", escaped(value)));
        }
        let end = if labels.is_empty() { "" } else { "}" };
        self.line(format_args!("{end} {value}"));
    }

    fn histogram(&mut self, label: (&str, &str), histogram: &Histogram) {
        let mut below = 0u64;
        for (bound, count) in histogram.buckets() {
            below = below.saturating_add(count);
            let bound = bound.map_or_else(|| "+Inf".to_owned(), |ms| Seconds(ms).to_string());
            self.sample("_bucket", &[label, ("le", &bound)], below);
        }
        self.sample("_sum", &[label], Seconds(histogram.sum_ms()));
        self.sample("_count", &[label], histogram.count());
    }

    fn line(&mut self, text: std::fmt::Arguments<'_>) {
        self.write(text);
        self.text.push('\n');
    }

    fn write(&mut self, text: std::fmt::Arguments<'_>) {
        // A string takes everything.
        let _ = self.text.write_fmt(text);
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Milliseconds as seconds, without the floating-point numbers that would have to be printed.
struct Seconds(u64);

impl Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:03}", self.0 / 1000, self.0 % 1000)
    }
}
