//! The search for an order of operations that explains a history.
//!
//! The events of a history, calls and answers, stand in a list by time. A call at or before the
//! first answer in the list may be the next operation of the order. It is tried on the model; if the
//! model accepts it, its events leave the list. The first answer in the list belongs to an operation
//! that must have been done by then, so whoever meets it has to take back the last choice. What was
//! visited, a set of done operations and a state, is remembered.
//!
//! Operations whose outcome is unknown are not in the list: nothing forces them to be done. They are
//! tried where nothing else leads on, and an operation is not done after one of them if it could
//! have been done before it to the same effect: then that one was not needed yet. An order with the
//! fewest of them never contains such a pair, so none is missed.

use std::{
    collections::{BTreeMap, HashSet},
    fmt::Debug,
    hash::Hash,
};

use super::Operation;

/// How many different sets of done operations with a state are visited before the search gives up.
const VISITS_MAX: usize = 4_000_000;

/// The mark of no event in the list.
const NOTHING: usize = usize::MAX;

/// One copy of the data that does one operation at a time.
pub trait Model {
    /// What can be asked.
    type Call: Clone + Debug;
    /// What an answer can say.
    type Seen: Clone + Debug;
    /// The data, small: it is copied for every operation done.
    type State: Clone + Eq + Hash + Debug;

    /// The data at the beginning.
    fn initial(&self) -> Self::State;

    /// The data after an operation, or `None` if this answer is impossible in this state. `seen` is
    /// `None` for an unknown answer, which is never impossible.
    fn step(
        &self,
        state: &Self::State,
        call: &Self::Call,
        seen: Option<&Self::Seen>,
    ) -> Option<Self::State>;
}

/// An operation on what a model stands for.
pub type OperationOf<M> = Operation<<M as Model>::Call, <M as Model>::Seen>;

/// What a search found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// An order exists.
    Linearizable,
    /// No order exists; the sentences show how far the best attempt came and what stood in its way.
    Violation(String),
    /// More was to be visited than the limit allows; nothing is known.
    TooHard,
}

impl Verdict {
    /// Panics with the explanation unless an order exists.
    ///
    /// # Panics
    /// There is none, or the search gave up.
    pub fn assert_linearizable(&self, what: &str) {
        match self {
            Self::Linearizable => {}
            Self::Violation(explanation) => panic!("{what}: not linearizable\n{explanation}"),
            Self::TooHard => panic!("{what}: the history is too hard to check"),
        }
    }

    /// Whether it is certain that no order exists.
    pub fn is_violation(&self) -> bool {
        matches!(self, Self::Violation(_))
    }
}

/// Checks the operations of each key for itself, against the model `of` makes for them. The first
/// key that cannot be explained, in their order, gives the verdict.
pub fn search_by_key<M: Model, K: Ord + Debug + Clone>(
    of: impl Fn(&[OperationOf<M>]) -> M,
    operations: &[(K, OperationOf<M>)],
) -> Verdict {
    let mut keys: BTreeMap<K, Vec<OperationOf<M>>> = BTreeMap::new();
    for (key, operation) in operations {
        keys.entry(key.clone()).or_default().push(operation.clone());
    }
    let mut hard = false;
    for (key, operations) in keys {
        match search(&of(&operations), &operations) {
            Verdict::Linearizable => {}
            Verdict::TooHard => hard = true,
            Verdict::Violation(text) => return Verdict::Violation(format!("key {key:?}: {text}")),
        }
    }
    if hard { Verdict::TooHard } else { Verdict::Linearizable }
}

/// Looks for an order of these operations that the model accepts.
pub fn search<M: Model>(model: &M, operations: &[OperationOf<M>]) -> Verdict {
    search_within(model, operations, VISITS_MAX)
}

/// As [`search`], with a limit of visits.
pub(super) fn search_within<M: Model>(
    model: &M,
    operations: &[OperationOf<M>],
    visits_max: usize,
) -> Verdict {
    let mut attempt = Attempt::new(model, operations);
    while attempt.answers_left > 0 {
        if attempt.visited.len() > visits_max {
            return Verdict::TooHard;
        }
        if !attempt.take_any() && !attempt.take_back() {
            return Verdict::Violation(attempt.explain());
        }
    }
    Verdict::Linearizable
}

/// A call or an answer of an operation with a known outcome.
#[derive(Clone, Copy, Debug)]
struct Event {
    time: u64,
    operation: usize,
    is_answer: bool,
}

/// What is looked at.
#[derive(Clone, Copy, Debug)]
enum Candidate {
    /// The event at this position.
    Event(usize),
    /// The unknown operation at this place among them, before the answer at this position.
    Unknown(usize, usize),
}

/// What one choice changed.
struct Choice<S> {
    candidate: Candidate,
    operation: usize,
    /// The state before.
    state: S,
    /// The mark of the set of done operations before.
    done: u128,
}

/// A search in progress.
struct Attempt<'a, M: Model> {
    model: &'a M,
    operations: &'a [OperationOf<M>],
    events: Vec<Event>,
    /// The list of events still there, by position; the last position stands for both of its ends.
    next: Vec<usize>,
    previous: Vec<usize>,
    /// Where the answer to an operation stands.
    answers: Vec<usize>,
    /// Operations with an unknown outcome, by the time they were sent, and whether they are done.
    unknown: Vec<(usize, bool)>,
    current: Candidate,
    answers_left: usize,
    state: M::State,
    /// The set of done operations, as the exclusive or of a random mark for each.
    done: u128,
    marks: Vec<u128>,
    choices: Vec<Choice<M::State>>,
    visited: HashSet<(u128, M::State)>,
    /// The longest order so far: its operations, the state after them, and what came then.
    longest: Vec<usize>,
    longest_state: M::State,
    obstacle: Option<usize>,
}

impl<'a, M: Model> Attempt<'a, M> {
    fn new(model: &'a M, operations: &'a [OperationOf<M>]) -> Self {
        let mut events = Vec::new();
        let mut unknown = Vec::new();
        for (operation, record) in operations.iter().enumerate() {
            let Some((time, _)) = record.answer else {
                unknown.push((operation, false));
                continue;
            };
            events.push(Event { time: record.sent, operation, is_answer: false });
            events.push(Event { time: time.max(record.sent), operation, is_answer: true });
        }
        // At the same time calls come first: what might have overlapped is taken as overlapping.
        events.sort_unstable_by_key(|event| (event.time, event.is_answer));
        unknown.sort_unstable_by_key(|(operation, _)| operations[*operation].sent);
        let mut answers = vec![NOTHING; operations.len()];
        for (position, event) in events.iter().enumerate().filter(|(_, event)| event.is_answer) {
            answers[event.operation] = position;
        }
        let ends = events.len();
        let state = model.initial();
        Self {
            model,
            operations,
            next: (1..=ends).chain([0]).collect(),
            previous: [ends].into_iter().chain(0..ends).collect(),
            unknown,
            current: Candidate::Event(0),
            answers_left: ends / 2,
            answers,
            events,
            longest_state: state.clone(),
            state,
            done: 0,
            marks: marks(operations.len()),
            choices: Vec::new(),
            visited: HashSet::new(),
            longest: Vec::new(),
            obstacle: None,
        }
    }

    /// Does the first operation that leads anywhere new, from the current candidate on.
    fn take_any(&mut self) -> bool {
        loop {
            match self.current {
                Candidate::Event(position) => {
                    let event = self.events[position];
                    if event.is_answer {
                        self.note_obstacle(event.operation);
                        self.current = Candidate::Unknown(0, position);
                    } else if self.take(event.operation) {
                        self.remove(position);
                        self.remove(self.answers[event.operation]);
                        self.answers_left -= 1;
                        self.current = self.first();
                        return true;
                    } else {
                        self.current = Candidate::Event(self.next[position]);
                    }
                }
                Candidate::Unknown(place, answer) => {
                    let Some(&(operation, done)) = self.unknown.get(place) else { return false };
                    if self.operations[operation].sent > self.events[answer].time {
                        return false;
                    }
                    if !done && self.take(operation) {
                        self.unknown[place].1 = true;
                        self.current = self.first();
                        return true;
                    }
                    self.current = Candidate::Unknown(place + 1, answer);
                }
            }
        }
    }

    /// Makes an operation the next one, if the model accepts it and that leads anywhere new.
    fn take(&mut self, operation: usize) -> bool {
        let record = &self.operations[operation];
        let seen = record.answer.as_ref().map(|(_, seen)| seen);
        let Some(state) = self.model.step(&self.state, &record.call, seen) else { return false };
        if seen.is_none() && state == self.state {
            // Doing it changes nothing; leaving it out is the same.
            return false;
        }
        if let Some(Choice { candidate: Candidate::Unknown(..), state: before, .. }) =
            self.choices.last()
            && self.model.step(before, &record.call, seen).as_ref() == Some(&state)
        {
            return false;
        }
        let done = self.done ^ self.marks[operation];
        if !self.visited.insert((done, state.clone())) {
            return false;
        }
        let before = std::mem::replace(&mut self.state, state);
        let choice = Choice { candidate: self.current, operation, state: before, done: self.done };
        self.choices.push(choice);
        self.done = done;
        true
    }

    /// Takes the last choice back and goes on behind it; `false` if there is none.
    fn take_back(&mut self) -> bool {
        let Some(choice) = self.choices.pop() else { return false };
        self.state = choice.state;
        self.done = choice.done;
        self.current = match choice.candidate {
            Candidate::Event(position) => {
                self.insert(self.answers[choice.operation]);
                self.insert(position);
                self.answers_left += 1;
                Candidate::Event(self.next[position])
            }
            Candidate::Unknown(place, answer) => {
                self.unknown[place].1 = false;
                Candidate::Unknown(place + 1, answer)
            }
        };
        true
    }

    fn first(&self) -> Candidate {
        Candidate::Event(self.next[self.events.len()])
    }

    fn remove(&mut self, position: usize) {
        let (before, after) = (self.previous[position], self.next[position]);
        self.next[before] = after;
        self.previous[after] = before;
    }

    /// Puts back what was removed last among those not yet put back.
    fn insert(&mut self, position: usize) {
        let (before, after) = (self.previous[position], self.next[position]);
        self.next[before] = position;
        self.previous[after] = position;
    }

    fn note_obstacle(&mut self, operation: usize) {
        if self.obstacle.is_none() || self.choices.len() > self.longest.len() {
            self.longest = self.choices.iter().map(|choice| choice.operation).collect();
            self.longest_state = self.state.clone();
            self.obstacle = Some(operation);
        }
    }

    fn explain(&self) -> String {
        /// How many operations before the obstacle are shown.
        const SHOWN: usize = 12;
        let skipped = self.longest.len().saturating_sub(SHOWN);
        let mut lines = vec![format!(
            "the longest order has {} of {} operations; its end:",
            self.longest.len(),
            self.operations.len()
        )];
        lines.extend(self.longest[skipped..].iter().map(|&operation| self.describe(operation)));
        lines.push(format!("then the state is {:?}, and this is impossible:", self.longest_state));
        lines.extend(self.obstacle.map(|operation| self.describe(operation)));
        lines.join("\n")
    }

    fn describe(&self, operation: usize) -> String {
        let Operation { client, call, sent, answer } = &self.operations[operation];
        let sent = *sent as f64 / 1e6;
        match answer {
            Some((time, seen)) => format!(
                "  client {client}, {sent:.3} ms to {:.3} ms: {call:?} -> {seen:?}",
                *time as f64 / 1e6
            ),
            None => format!("  client {client}, from {sent:.3} ms: {call:?} -> unknown"),
        }
    }
}

/// A random mark for each operation, equal in every run. Two different sets of operations having
/// the same mark is as likely as a disk that reads back something else than was written.
fn marks(count: usize) -> Vec<u128> {
    let mut random = crate::Random::new(0x6c69_6e65_6172);
    (0..count).map(|_| u128::from(random.number()) << 64 | u128::from(random.number())).collect()
}
