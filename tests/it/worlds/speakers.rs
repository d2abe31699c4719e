//! Who answers at an endpoint: scripts that chance has made, and models that have something to say.

use super::{
    answers::Asked,
    choices::Dice,
    speech::{Speech, Telling},
    upstream::Behaviour,
};
use crate::script::Script;
use fairlead_core::message::Request;
use std::{fmt, rc::Rc};

/// One answer to one request.
#[derive(Clone)]
pub enum Answer {
    Scripted(Rc<Behaviour>),
    Told(Rc<Telling>),
}

impl Answer {
    /// `speaks`: it is known what there is to say.
    pub fn draw(dice: &mut Dice, asked: Asked, speaks: bool) -> Self {
        match speaks {
            true if dice.one_in(6) => Self::Scripted(Behaviour::without_content(dice, asked).into()),
            true => Self::Told(Telling::draw(dice).into()),
            false => Self::Scripted(Behaviour::draw(dice, asked).into()),
        }
    }

    /// The fault of the simulated server, if it is one.
    pub fn fault(&self) -> &'static str {
        match self {
            Self::Scripted(behaviour) => behaviour.fault,
            Self::Told(_) => "none",
        }
    }

    /// Whether it says nothing but what its model says.
    pub fn is_faithful(&self) -> bool {
        match self {
            Self::Scripted(_) => true,
            Self::Told(telling) => telling.is_faithful(),
        }
    }
}

/// The answers of one endpoint, of which the last comes again and again.
pub struct Speakers {
    endpoint: &'static str,
    speech: Option<Rc<Speech>>,
    answers: Vec<Answer>,
    given: usize,
}

impl Speakers {
    pub const fn new(endpoint: &'static str, speech: Option<Rc<Speech>>, answers: Vec<Answer>) -> Self {
        Self { endpoint, speech, answers, given: 0 }
    }

    pub fn answer(&mut self, request: &Request) -> Script {
        let Self { endpoint, speech, answers, given } = self;
        let answer = answers.get(*given).or(answers.last()).expect("an answer");
        if !request.url.ends_with("/tokenize") {
            *given += 1;
        }
        match (answer, speech) {
            (Answer::Scripted(behaviour), _) => behaviour.script.clone(),
            (Answer::Told(telling), Some(speech)) => telling.answer(speech, &format!("{endpoint}-{given}"), request),
            (Answer::Told(_), None) => unreachable!("nothing to tell"),
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scripted(behaviour) => behaviour.fmt(f),
            Self::Told(telling) => telling.fmt(f),
        }
    }
}
