//! Chance as a list of choices: a world is drawn from a seed, what was drawn is written down, and
//! a shorter list of smaller numbers gives a smaller world of the same kind.
//!
//! A library such as proptest builds a tree of shrinkable values for every world, also for the
//! millions that keep their promises, and wants the generator in its own combinators. A list of
//! numbers costs nothing until a world fails, lets the generator be plain code, and shrinks in the
//! one function below (the way of Hypothesis).

use fairlead_core::rng::Rng;

use std::ops::Range;

/// Draws numbers, from a seed or from a list. Zero is always the simplest choice.
pub struct Dice {
    from: From,
    drawn: Drawn,
}

enum From {
    Seed(Rng),
    /// Behind its end everything is zero.
    List(Vec<u64>),
}

/// What was drawn.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Drawn {
    pub choices: Vec<u64>,
    /// Where things stand in it that can be left out.
    things: Vec<Range<usize>>,
}

impl Dice {
    pub fn of_seed(seed: u64) -> Self {
        Self { from: From::Seed(Rng::from_seed(seed)), drawn: Drawn::default() }
    }

    pub fn of_list(choices: Vec<u64>) -> Self {
        Self { from: From::List(choices), drawn: Drawn::default() }
    }

    pub fn drawn(self) -> Drawn {
        self.drawn
    }

    /// From 0 to `most`, both included.
    pub fn up_to(&mut self, most: u64) -> u64 {
        let choices = &mut self.drawn.choices;
        let choice = match &mut self.from {
            From::Seed(rng) => rng.up_to(most),
            From::List(list) => list.get(choices.len()).copied().unwrap_or_default().min(most),
        };
        choices.push(choice);
        choice
    }

    pub fn one_in(&mut self, sides: u64) -> bool {
        self.up_to(sides - 1) == sides - 1
    }

    /// The first is the simplest.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.index(from.len())]
    }

    /// Below `length`; 0 where there is nothing to choose from.
    pub fn index(&mut self, length: usize) -> usize {
        self.up_to(length.saturating_sub(1) as u64) as usize
    }

    /// Up to `most` things; in front of each and behind the last a choice says whether one follows.
    pub fn some<T>(&mut self, most: usize, mut draw: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let mut things = Vec::new();
        loop {
            let start = self.drawn.choices.len();
            if self.up_to(if things.len() < most { 3 } else { 0 }) == 0 {
                return things;
            }
            things.push(draw(self));
            self.drawn.things.push(start..self.drawn.choices.len());
        }
    }

    /// From one to `most` things; behind each a choice says whether another follows.
    pub fn at_least_one<T>(&mut self, most: usize, mut draw: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let mut things = Vec::new();
        loop {
            let start = self.drawn.choices.len();
            things.push(draw(self));
            let end = self.drawn.choices.len();
            if things.len() > 1 {
                self.drawn.things.push(start - 1..end);
            }
            if self.up_to(if things.len() < most { 2 } else { 0 }) == 0 {
                return things;
            }
            self.drawn.things.push(start..end + 1);
        }
    }

    /// Milliseconds on every scale from an instant to a minute.
    pub fn ms(&mut self) -> u64 {
        let most = self.pick(&[10, 100, 1000, 10_000, 60_000]);
        self.up_to(most)
    }
}

/// The smallest that is found to fail like this. `fails` draws again from a list, and gives what it
/// drew if that fails too.
pub fn shrink(drawn: Drawn, fails: impl FnMut(Vec<u64>) -> Option<Drawn>) -> Drawn {
    let mut search = Search { best: drawn, fails, tries: 0 };
    loop {
        let before = search.best.clone();
        search.leave_things_out();
        search.leave_choices_out();
        search.lower_choices();
        if search.best == before {
            return before;
        }
    }
}

/// However stubborn a world is, its report should come within seconds.
const MOST_TRIES: usize = 20_000;

struct Search<F> {
    best: Drawn,
    fails: F,
    tries: usize,
}

impl<F: FnMut(Vec<u64>) -> Option<Drawn>> Search<F> {
    /// Whether this still fails; then it is the best so far, for it is shorter or smaller.
    fn is_better(&mut self, candidate: Vec<u64>) -> bool {
        self.tries += 1;
        if self.tries > MOST_TRIES || candidate == self.best.choices {
            return false;
        }
        let found = (self.fails)(candidate);
        let size = |drawn: &Drawn| (drawn.choices.len(), drawn.choices.clone());
        let better = found.filter(|found| size(found) < size(&self.best));
        better.map(|better| self.best = better).is_some()
    }

    fn without(&self, place: Range<usize>) -> Vec<u64> {
        [&self.best.choices[..place.start], &self.best.choices[place.end..]].concat()
    }

    fn leave_things_out(&mut self) {
        // The large ones first, of which the small ones are parts.
        let mut next = 0;
        loop {
            let mut things = self.best.things.clone();
            things.sort_by_key(|thing| std::cmp::Reverse(thing.len()));
            let Some(thing) = things.get(next).cloned() else { return };
            if !self.is_better(self.without(thing)) {
                next += 1;
            }
        }
    }

    fn leave_choices_out(&mut self) {
        for length in (1..=8).rev() {
            let mut place = self.best.choices.len();
            while place > 0 {
                place -= 1;
                let end = place + length;
                if end <= self.best.choices.len() && !self.is_better(self.without(place..end)) {
                    let mut zeros = self.best.choices.clone();
                    zeros[place..end].fill(0);
                    self.is_better(zeros);
                }
            }
        }
    }

    fn lower_choices(&mut self) {
        let mut place = 0;
        while place < self.best.choices.len() {
            let mut low = 0;
            while let Some(&value) = self.best.choices.get(place).filter(|value| low < **value) {
                let half = low + (value - low) / 2;
                let mut lower = self.best.choices.clone();
                lower[place] = half;
                if !self.is_better(lower) {
                    low = half + 1;
                }
            }
            place += 1;
        }
    }
}
