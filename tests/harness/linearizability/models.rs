//! One copy of a register, of a list that only grows, and of a bank.

use std::collections::HashMap;

use super::{Operation, search::Model};

/// A value that is read, written, and exchanged for another one if it is the expected one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Register;

/// What a register can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegisterCall {
    /// The value.
    Read,
    /// To take this value.
    Write(u64),
    /// To take the second value if it has the first.
    Exchange(u64, u64),
}

/// What a register can answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegisterSeen {
    /// The value, or none if none was ever written.
    Value(Option<u64>),
    /// Written.
    Written,
    /// Whether the value was exchanged.
    Exchanged(bool),
}

impl Model for Register {
    type Call = RegisterCall;
    type Seen = RegisterSeen;
    type State = Option<u64>;

    fn initial(&self) -> Option<u64> {
        None
    }

    fn step(
        &self,
        state: &Option<u64>,
        call: &RegisterCall,
        seen: Option<&RegisterSeen>,
    ) -> Option<Option<u64>> {
        let (after, answer) = match *call {
            RegisterCall::Read => (*state, RegisterSeen::Value(*state)),
            RegisterCall::Write(value) => (Some(value), RegisterSeen::Written),
            RegisterCall::Exchange(expected, value) if *state == Some(expected) => {
                (Some(value), RegisterSeen::Exchanged(true))
            }
            RegisterCall::Exchange(..) => (*state, RegisterSeen::Exchanged(false)),
        };
        seen.is_none_or(|seen| *seen == answer).then_some(after)
    }
}

/// A list that elements are appended to, and that is read as a whole. No element is appended twice.
///
/// The longest answer of a history tells in which order elements were appended, so the search need
/// not try others; without that, concurrent appends would make it exponential.
#[derive(Clone, Debug, Default)]
pub struct List {
    longest: Vec<u64>,
    places: HashMap<u64, usize>,
}

impl List {
    /// The model for this history.
    pub fn of(operations: &[Operation<ListCall, ListSeen>]) -> Self {
        let lists = operations.iter().filter_map(|operation| match &operation.answer {
            Some((_, ListSeen::Elements(elements))) => Some(elements),
            _ => None,
        });
        let longest = lists.max_by_key(|elements| elements.len()).cloned().unwrap_or_default();
        let mut places = HashMap::new();
        for (place, element) in longest.iter().enumerate() {
            places.entry(*element).or_insert(place);
        }
        Self { longest, places }
    }
}

/// What a list can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListCall {
    /// All elements.
    Read,
    /// To append this one.
    Append(u64),
}

/// What a list can answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListSeen {
    /// All elements.
    Elements(Vec<u64>),
    /// Appended.
    Appended,
}

impl Model for List {
    type Call = ListCall;
    type Seen = ListSeen;
    /// The length; with the order of the elements that says everything.
    type State = usize;

    fn initial(&self) -> usize {
        0
    }

    fn step(&self, length: &usize, call: &ListCall, seen: Option<&ListSeen>) -> Option<usize> {
        match (call, seen) {
            (ListCall::Read, None) => Some(*length),
            (ListCall::Read, Some(ListSeen::Elements(elements))) => {
                (self.longest.get(..*length)? == elements).then_some(*length)
            }
            (ListCall::Append(element), None | Some(ListSeen::Appended)) => {
                // What the longest answer does not show came after it.
                let in_order = match self.places.get(element) {
                    Some(place) => place == length,
                    None => *length >= self.longest.len(),
                };
                in_order.then_some(length + 1)
            }
            (ListCall::Read, Some(ListSeen::Appended))
            | (ListCall::Append(_), Some(ListSeen::Elements(_))) => None,
        }
    }
}

/// Accounts between which money is moved; none may be overdrawn, and none is created or lost.
#[derive(Clone, Debug)]
pub struct Bank {
    /// What each account holds at the beginning.
    pub accounts: Vec<u64>,
}

/// What a bank can be asked: `None` for all balances at once.
pub type BankCall = Option<Transfer>;

/// A movement of money.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// The account it is taken from.
    pub from: usize,
    /// The account it is given to; another one.
    pub to: usize,
    /// How much.
    pub amount: u64,
}

/// What a bank can answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BankSeen {
    /// All balances.
    Balances(Vec<u64>),
    /// Whether the money was moved; it is not if the account holds too little.
    Moved(bool),
}

impl Bank {
    /// The money in all accounts together.
    pub fn total(&self) -> u64 {
        self.accounts.iter().sum()
    }
}

impl Model for Bank {
    type Call = BankCall;
    type Seen = BankSeen;
    type State = Vec<u64>;

    fn initial(&self) -> Vec<u64> {
        self.accounts.clone()
    }

    fn step(&self, state: &Vec<u64>, call: &BankCall, seen: Option<&BankSeen>) -> Option<Vec<u64>> {
        let Some(Transfer { from, to, amount }) = *call else {
            let possible = match seen {
                None => true,
                Some(BankSeen::Balances(balances)) => balances == state,
                Some(BankSeen::Moved(_)) => false,
            };
            return possible.then(|| state.clone());
        };
        let moved = state[from] >= amount;
        let possible = seen.is_none_or(|seen| *seen == BankSeen::Moved(moved));
        possible.then(|| {
            let mut after = state.clone();
            if moved {
                after[from] -= amount;
                after[to] += amount;
            }
            after
        })
    }
}
