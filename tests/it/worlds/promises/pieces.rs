//! What the client gets, piece by piece.

use super::*;

impl Promises {
    pub(super) fn see_pieces(&mut self, state: &State, record: &Record) {
        if self.listener.is_none() && record.ask.stream && spliced::keeps(record) {
            self.listener = Some(Listener::new(Plain::new(record.ask.api.dialect(), record.ask.choices)));
        }
        for (at, piece) in &record.pieces[self.pieces_seen..] {
            assert!(!self.ended, "nothing follows the end: {}", text(piece));
            assert!(!piece.is_empty(), "an empty piece");
            self.served_at = *at;
            let status = record.head.as_ref().expect("a head before the body").status;
            if let Some(listener) = &mut self.listener {
                listener.heard.grow(piece);
            }
            if spliced::is_internal(record) {
                self.see_assembled(record, piece);
            } else if !record.ask.stream || status != 200 {
                match self.follows_a_job() {
                    true => self.see_job_piece(piece),
                    false => self.see_plain_piece(state, record, piece),
                }
            } else if piece.starts_with(b": resumed by ") {
                self.see_splice(state, record, piece);
            } else if self.listener.as_ref().is_some_and(|listener| listener.splice.is_some()) {
                self.ended = self.listener.as_ref().is_some_and(|listener| listener.heard.closed_at.is_some());
            } else if piece.starts_with(b": IN_") || piece == KEEPALIVE {
                // A job's place in the queue, which the client takes late.
            } else if !self.see_blocks(state, piece) {
                match self.follows_a_job() {
                    true => self.see_job_piece(piece),
                    false => self.see_end(record, piece),
                }
            }
        }
        self.pieces_seen = record.pieces.len();
        if record.broken {
            assert!(!record.ask.stream && self.shown.is_some(), "only half of a plain answer is broken off");
        }
    }

    /// Another attempt goes on behind what the client has.
    fn see_splice(&mut self, state: &State, record: &Record, piece: &[u8]) {
        let words = text(piece);
        let words = words.trim_end().trim_start_matches(": resumed by ");
        let (way, number) = words.split_once(", attempt ").expect("a way and a number");
        let place = number.parse::<usize>().expect("a number") - 1;
        let before = self.speaker().and_then(|place| self.attempts[place].request);
        let attempt = &self.attempts[place];
        assert_eq!(attempt.way, Some(way));
        let listener = self.listener.as_mut().expect("a stream that may be resumed");
        match way {
            "continue" => {
                assert_eq!(record.policy.resume, Resume::Continue);
                let had = &listener.heard.said;
                let given = if record.ask.api.path().contains("chat") { spliced::trimmed(had) } else { had };
                // Where events may end inside of tokens, the last word is not given.
                let holds_back = record.ask.body.windows(7).any(|at| at == b"\"stop\":");
                let word = given.strip_prefix(&*attempt.begun).expect("the beginning of what the client has");
                let words = word.split(spliced::is_white_space).filter(|word| !word.is_empty()).count();
                assert!(word.is_empty() || holds_back && words <= 1, "{word:?} is not given");
                let model = |number: usize| {
                    serde_json::from_slice::<Value>(&state.requests[number].request.body).expect("JSON")["model"].take()
                };
                let models = attempt.request.zip(before).map(|(own, other)| (model(own), model(other)));
                let (own, other) = models.expect("requests, not jobs");
                assert_eq!(own, other, "text that no one model has said");
            }
            "verify" => assert_ne!(record.policy.resume, Resume::Off),
            other => panic!("a way that is none: {other}"),
        }
        listener.splice(place);
    }

    /// What the client has read of a stream that went on is what was said, neither more nor less.
    pub(super) fn check_text(&self, state: &State, record: &Record) {
        let Some(listener) = &self.listener else { return };
        let Some(attempt) = listener.splice.as_ref().map(|splice| &self.attempts[splice.attempt]) else { return };
        if record.ask.choices != 1 || attempt.job || listener.heard.odd || attempt.plain.odd {
            return;
        }
        let gone = state.events.iter().any(
            |(_, event)| matches!(event, Event::CallEnded { outcome, .. } if !matches!(&**outcome, "ok" | "partial" | "stream_interrupted")),
        );
        let late = state.now >= record.deadline_ms;
        let differs = attempt.failed.as_deref() == Some("differs");
        let settled = state.taking.count == 0 && !late && !gone && !record.untaken && !differs;
        let whole = format!("{}{}", attempt.begun, attempt.plain.said);
        listener.check(&whole, &attempt.plain.thought, settled);
    }

    /// An answer that was put together is what one attempt has said, behind what it was given; or there is an error.
    fn see_assembled(&mut self, record: &Record, piece: &[u8]) {
        self.ended = true;
        let answer: Value = serde_json::from_slice(piece).expect("JSON, in one piece");
        let status = record.head.as_ref().expect("a head").status;
        if (400..500).contains(&status) && answer["error"]["code"].as_str().is_none() {
            return;
        }
        let failed = answer.get("error").is_some();
        assert_eq!(status == 200, !failed, "{}", text(piece));
        self.assembled = Some(answer);
    }

    /// What a job's text must be is judged at its end: here, only that nothing follows an error.
    fn see_job_piece(&mut self, piece: &[u8]) {
        if !piece.starts_with(b":") {
            self.ended = text(piece).contains(r#""error":{"message":"#) && text(piece).contains(r#""code":"#);
            self.shown = Some(0).filter(|_| !self.ended).or(self.shown);
            let is_job = |attempt: &Attempt| attempt.job && attempt.way.is_none();
            self.winner = self.attempts.iter().rposition(is_job).filter(|_| !self.ended).or(self.winner);
        }
    }

    /// An answer that does not stream is one attempt's, from its first byte on, or the core's error.
    fn see_plain_piece(&mut self, state: &State, record: &Record, piece: &[u8]) {
        // Of two that are asked, the last to refuse has the word.
        let refused = self.attempts.iter().position(|attempt| self.hedged && attempt.plain.bytes == piece);
        let attempt = refused.or(self.speaker()).map(|place| &self.attempts[place]);
        let sent = attempt.and_then(|attempt| Some(&state.requests[attempt.request?]));
        let from = self.shown.unwrap_or_default();
        let bytes = attempt.map_or(&[][..], |attempt| &attempt.plain.bytes);
        if bytes[from..].starts_with(piece) {
            self.shown = Some(from + piece.len());
            let over = sent.is_some_and(|sent| sent.over_at.is_some() && !sent.aborted);
            let whole = over && from + piece.len() == bytes.len();
            assert!(whole || bytes.len() > MAX_WHOLE, "an answer that is not complete is not shown");
            let status = record.head.as_ref().map(|head| head.status);
            assert_eq!(status, sent.and_then(|sent| Some(sent.head.as_ref()?.status)), "with its own status");
        } else {
            let error: serde_json::Value = serde_json::from_slice(piece).unwrap_or_default();
            assert!(error["error"]["code"].is_string(), "neither an endpoint's nor an error: {}", text(piece));
            assert_eq!(self.shown, None, "no error behind half an answer");
            self.ended = true;
        }
    }

    /// Whether these are blocks of one attempt, always the same, in order, without any that must not be seen.
    fn see_blocks(&mut self, state: &State, piece: &[u8]) -> bool {
        if let Some(place) = self.winner {
            return self.see_blocks_of(place, piece);
        }
        // Of two that say the same, the one that was given up first has lost.
        let given_up = |place: &usize| {
            let sent = self.attempts[*place].request.map(|number| &state.requests[number]);
            sent.map(|sent| (std::cmp::Reverse(sent.over_at.unwrap_or(u64::MAX)), sent.aborted))
        };
        let mut places: Vec<usize> = (0..self.attempts.len()).rev().collect();
        // Behind one that is shown there are only hedges, and those that go on.
        let only_goes_on = |later: &Attempt| later.way.is_some();
        places.retain(|place| self.attempts[*place].way.is_none());
        places.retain(|place| self.hedged || self.attempts[place + 1..].iter().all(only_goes_on));
        places.sort_by_key(given_up);
        places.into_iter().any(|place| self.see_blocks_of(place, piece))
    }

    fn see_blocks_of(&mut self, place: usize, piece: &[u8]) -> bool {
        let Some(Attempt { plain, request: Some(_), .. }) = self.attempts.get(place) else { return false };
        let mut cursor = self.shown.unwrap_or_else(|| plain.start());
        let in_front = self.pieces_of_it < 2;
        let mut rest = piece;
        while !rest.is_empty() {
            let Some((end, meaning)) = plain.block_at(cursor) else { return false };
            if let Some(behind) = rest.strip_prefix(&plain.bytes[cursor..end]) {
                let never = matches!(meaning, Meaning::Malformed | Meaning::Hole | Meaning::Error);
                assert!(!never, "not for the client, but shown: {}", text(&plain.bytes[cursor..end]));
                rest = behind;
            } else if !meaning.may_be_dropped(in_front) {
                return false;
            }
            cursor = end;
        }
        if plain.closed_at.is_some_and(|end| cursor > end)
            || !(plain.content || plain.whole || plain.weight > MAX_HELD || plain.odd)
        {
            return false;
        }
        self.winner = Some(place);
        self.shown = Some(cursor);
        self.pieces_of_it += 1;
        true
    }

    /// The end that the core puts in: a `[DONE]` that is owed, one behind an answer that is cut short, or an error.
    fn see_end(&mut self, record: &Record, piece: &[u8]) {
        self.ended = true;
        let speaker = self.speaker().map(|place| &self.attempts[place]);
        let plain = speaker.filter(|attempt| attempt.way.is_none()).map(|attempt| &attempt.plain);
        let whole = plain.is_some_and(|plain| plain.whole || plain.odd);
        if piece == DONE {
            assert!(whole, "[DONE] without proof");
            assert!(plain.is_some_and(Plain::ends_in_done), "[DONE] where nobody knows it");
            return;
        }
        let reads = read_events(piece);
        let events: Vec<Value> = reads.iter().map(|(_, data)| serde_json::from_str(data).unwrap_or_default()).collect();
        if let [event] = &*events
            && event["choices"].as_array().is_some_and(Vec::is_empty)
            && event.get("usage") == Some(&Value::Null)
        {
            assert!(whole && spliced::keeps(record), "unknown counts of half an answer");
            // What is owed of the end stands behind it.
            self.ended = false;
            return;
        }
        if let Some(((_, done), _)) = reads.split_last().filter(|((_, data), _)| data == "[DONE]") {
            assert!(spliced::keeps(record) && self.shown.is_some(), "{done} behind nothing: {}", text(piece));
            for event in &events[..events.len() - 1] {
                let choices = event["choices"].as_array().expect("choices");
                let ends = |choice: &Value| {
                    let delta = &choice["delta"];
                    let says = delta.as_object().is_some_and(|delta| !delta.is_empty());
                    choice["finish_reason"] == "length" && !says && choice["text"].as_str().unwrap_or_default() == ""
                };
                assert!(choices.iter().all(ends), "no end: {event}");
                assert!(!choices.is_empty() || event["usage"].is_null(), "counts that nobody has told: {event}");
                let second = plain.is_some_and(|plain| plain.whole && !plain.odd);
                assert!(choices.is_empty() || !second, "a second end: {event}");
                let all_came =
                    record.policy.resume != Resume::Off && record.ask.body.windows(6).any(|at| at == b"\"max_t");
                let truncated = event["fairlead"]["truncated"] == "deadline";
                assert!(choices.is_empty() || truncated || all_came, "cut short: {event}");
                self.all_came |= !choices.is_empty() && !truncated;
            }
            return;
        }
        let error = events.last().is_some_and(|event| event["error"]["code"].is_string()) && events.len() == 1;
        assert!(error, "neither the endpoint's nor an end: {}", text(piece));
        let whole = plain.is_some_and(|plain| plain.whole && !plain.failed && !plain.odd && !too_long(plain));
        assert!(!whole, "an error behind a whole stream: {}", text(piece));
    }
}
