//! What must hold when a call is over.

use super::*;

impl Promises {
    /// The call is over.
    pub fn check_end(&mut self, record: &Record) {
        self.check_partial(record);
        self.check_said(record);
        // Or it has ended when its tokens were counted, as all had come.
        let spliced = self.attempts.iter().any(|attempt| attempt.way.is_some());
        let ambiguous = self.hedged && self.winner.is_none();
        if spliced || ambiguous || spliced::is_internal(record) {
            return;
        }
        let Some(place) = self.winner.or(self.attempts.len().checked_sub(1)) else { return };
        let attempt = &mut self.attempts[place];
        let Some(sent) = attempt.request.map(|number| &record.requests[number]) else { return };
        let Attempt { plain, .. } = attempt;
        let outcome = record.outcome();
        let streamed = streams(sent, record);
        if streamed && plain.whole && !plain.failed && !plain.odd && !too_long(plain) {
            assert!(["ok", "client_gone"].contains(&outcome), "{outcome}, of a whole stream");
        }
        if outcome != "ok" || record.untaken || record.gone || self.all_came {
            return;
        }
        if record.piped.is_some() {
            // An event that was cut is ended by a blank line, and then counts.
            plain.grow(b"\n\n");
            assert!(plain.whole || plain.odd, "ok, of half a stream");
            return;
        }
        let Attempt { plain, .. } = &self.attempts[place];
        let cursor = self.shown.expect("an answer was shown");
        if streamed {
            assert!(plain.whole || plain.odd, "ok, of half a stream");
            // What is odd may have broken it behind its end, which the core has put in then.
            if !plain.odd || !spliced::keeps(record) {
                self.check_nothing_is_kept(plain, cursor);
            }
        } else {
            assert_eq!(cursor, plain.bytes.len(), "an answer goes out whole");
            let head = sent.head.as_ref().expect("a head before the answer");
            let length = head.headers.get("content-length").filter(|_| head.headers.get("content-encoding").is_none());
            assert!(length.is_none_or(|length| length == cursor.to_string()), "an answer of another length");
        }
    }

    /// A stream that is cut short at the deadline says so, in time; and where it may be, nothing else becomes of it.
    fn check_partial(&self, record: &Record) {
        let partial = record.policy.on_deadline == OnDeadline::Partial;
        if record.untaken || record.gone {
            return;
        }
        if record.outcome() != "partial" {
            let shown = self.listener.as_ref().is_some_and(|listener| listener.heard.content);
            let late = record.outcome() == "deadline_exceeded";
            assert!(!(late && partial && shown), "a stream that could have been cut short");
            return;
        }
        assert!(partial, "cut short against the policy");
        let total_ms = record.events.iter().find_map(|(_, event)| match event {
            Event::CallEnded { total_ms, .. } => Some(record.begins_at + total_ms),
            _ => None,
        });
        let follows_jobs = self.attempts.iter().any(|attempt| attempt.job);
        let early = total_ms.is_some_and(|at| at + PARTIAL_MS < record.deadline_ms);
        assert!(!early || follows_jobs, "cut short at {total_ms:?}, the deadline is {}", record.deadline_ms);
        if let Some(listener) = &self.listener {
            assert!(listener.heard.content, "cut short where nothing was shown");
            let told = |event: &Value| event["fairlead"]["truncated"] == "deadline";
            assert_eq!(listener.heard.events().iter().filter(|event| told(event)).count(), 1, "{}", record.text());
        } else {
            assert!(spliced::is_internal(record), "a call that cannot be cut short");
            assert_eq!(record.header("x-fairlead-truncated"), Some("deadline"));
        }
    }

    /// What the client has read at the end is what was said, and what there was to say.
    fn check_said(&self, record: &Record) {
        if record.untaken || record.gone || record.ask.choices != 1 {
            return;
        }
        let outcome = record.outcome();
        let (ok, ended) = (outcome == "ok", matches!(outcome, "ok" | "partial"));
        let all_count =
            |sent: &&Sent| sent.chunks.iter().any(|chunk| chunk.starts_with(b"{\"count\"")) && !sent.aborted;
        let counts = record.requests.iter().filter(|sent| sent.counts()).filter(all_count).count();
        // Where nobody can count, each event is taken for a token, and may be more.
        let counted = counts == self.attempts.iter().filter(|attempt| attempt.way == Some("continue")).count();
        let splices = |record: &Record| {
            record.events.iter().filter(|(_, event)| matches!(event, Event::ResumeStarted { .. })).count()
        };
        if let Some(answer) = &self.assembled {
            let (text, finish) = match spliced::assembled(answer) {
                Some(answer) => answer,
                None => (answer["error"]["partial"].as_str().unwrap_or_default(), None),
            };
            assert!(!ended || finish.is_some(), "no end: {answer}");
            let of_job = self.attempts.iter().any(|attempt| attempt.job);
            let odd = self.attempts.iter().any(|attempt| attempt.plain.odd);
            let is_it = |attempt: &Attempt| {
                let said = format!("{}{}", attempt.begun, attempt.plain.said);
                let differs = attempt.failed.as_deref() == Some("differs");
                said == text || differs && said.starts_with(text)
            };
            let proves = |attempt: &Attempt| !ok || attempt.plain.whole || finish == Some("length");
            let said = self.attempts.iter().any(|attempt| is_it(attempt) && proves(attempt));
            assert!(said || of_job || odd || text.is_empty() && !ok, "nobody has said {text:?}");
            if let Some(speech) = &self.speech {
                let counted = counted && !of_job;
                Heard { text, finish, ok, splices: splices(record), counted }.check(speech);
            }
        } else if let (Some(listener), Some(speech)) = (&self.listener, &self.speech) {
            let events = listener.heard.events();
            let ends = |event: &Value| event["choices"][0]["finish_reason"].as_str().map(str::to_owned);
            let finish = events.iter().find_map(ends);
            let (text, splices) = (&*listener.heard.said, splices(record));
            Heard { text, finish: finish.as_deref(), ok, splices, counted }.check(speech);
            if ended {
                spliced::check_form(record, &listener.heard, speech, splices);
            }
        }
    }
}
