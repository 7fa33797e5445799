//! What one request may use up: VM steps of all its statements, pages added to the database.
//!
//! Both limits end a statement at the same place on every node, because they count what the
//! statement does and never time. Steps are counted by SQLite's progress handler, which looks every
//! [`STEP_QUANTUM`] steps of a statement, and never within one step: a step that calls a function
//! or sorts takes as long as its values are large, however few steps are left. Values are bounded
//! ([`LONGEST_VALUE`](crate::connection::LONGEST_VALUE)) and functions slower than linear replaced
//! where that is known, so the time of a step has a bound, but a budget of steps is none of time.
//! Compiling takes no steps; it is charged by what the text is, to a budget of the same size, so that a
//! text of many statements ends as well. Pages are limited by `max_page_count`, which must lie a
//! budget above the page count when the request begins. Setting it costs a compilation, so for most
//! entries it is left at a lower value from before, a *guard*: whoever runs into the guard runs the
//! entry again with the exact limits, so that guards, which depend on the connection's history,
//! never decide anything.
//!
//! An *allowance* of steps is something else: it ends an attempt, and no result may come of that.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use rq_sql::{
    ErrorKind, Origin, SqlError,
    split::statements,
    token::{Token, TokenKind, tokens},
};
use rusqlite::Connection;

use crate::{error::SqliteError, statements::ClientStatement, work::Meter};

/// Steps between two looks of the progress handler. A budget of steps takes effect at the first
/// look beyond it, so it is rounded up to the next multiple.
pub(crate) const STEP_QUANTUM: u64 = 1000;

/// What compiling a statement counts for, however short it is.
pub(crate) const STEPS_PER_COMPILING: u64 = 100;

/// How many bytes of a statement's text count for a step.
const BYTES_PER_STEP: usize = 8;

/// How many comparisons of a parameter's name count for a step.
const COMPARISONS_PER_STEP: usize = 8;

/// How many bytes of memory count for a step, of a statement that asks for very much to be compiled.
const COSTLY_BYTES_PER_STEP: u64 = 4;

/// Texts shorter than this, in bytes, have too few parts for their pairs to take long.
const SHORTEST_TANGLE: usize = 2048;

/// Words that connect parts of a statement which are compared with each other.
const CONNECTING_WORDS: &[&str] =
    &["AS", "AND", "OR", "WHEN", "THEN", "BETWEEN", "IS", "LIKE", "GLOB", "IN"];

/// How many pairs of parts count for a step.
const PAIRS_PER_STEP: u64 = 2;

/// What a pair of windows counts for.
const STEPS_PER_WINDOW_PAIR: u64 = 300;

/// What the parts of one statement may count for on a connection that has no budget.
pub(crate) const MOST_TANGLED: u64 = 2_000_000_000;

/// Up to how many slots a statement's parameters are compiled in no time.
const FEW_PARAMETERS: usize = 64;

/// The looks left of an allowance when there is none.
const LOOKS_UNLIMITED: u64 = u64::MAX;

/// SQLite's own upper bound of `max_page_count`.
const PAGES_UNLIMITED: u64 = 4_294_967_294;

/// Counts the steps of the running statement.
///
/// Steps of statements that virtual tables (FTS, R*Tree) run beneath a client's statement count
/// too. They are equal on all nodes because those tables begin each entry with nothing cached; see
/// [`Session::begin`](crate::session::Session::begin).
#[derive(Debug)]
pub(crate) struct StepBudget {
    armed: AtomicBool,
    exceeded: AtomicBool,
    looks_left: AtomicU64,
    looks: AtomicU64,
    allowance: AtomicU64,
    overdrawn: AtomicBool,
}

impl Default for StepBudget {
    fn default() -> Self {
        Self {
            armed: AtomicBool::new(false),
            exceeded: AtomicBool::new(false),
            looks_left: AtomicU64::new(0),
            looks: AtomicU64::new(0),
            allowance: AtomicU64::new(LOOKS_UNLIMITED),
            overdrawn: AtomicBool::new(false),
        }
    }
}

impl StepBudget {
    /// Installs the progress handler of `writer`. Nothing is limited until [`arm`](Self::arm).
    ///
    /// # Errors
    /// SQLite without memory.
    pub(crate) fn install(writer: &mut Connection) -> Result<Arc<Self>, SqliteError> {
        let budget = Arc::new(Self::default());
        let handler = Arc::clone(&budget);
        let quantum = i32::try_from(STEP_QUANTUM).expect("the quantum is small");
        writer.progress_handler(quantum, Some(move || !handler.take(1)))?;
        Ok(budget)
    }

    /// Limits the statement that is about to run, whose step counter must be 0; 0 is no limit.
    pub(crate) fn arm(&self, steps: u64) {
        self.exceeded.store(false, Ordering::Relaxed);
        self.looks_left.store(steps.div_ceil(STEP_QUANTUM), Ordering::Relaxed);
        self.looks.store(0, Ordering::Relaxed);
        self.armed.store(steps > 0, Ordering::Relaxed);
    }

    /// Limits nothing any more, and says whether the limit was exceeded.
    pub(crate) fn disarm(&self) -> bool {
        self.armed.store(false, Ordering::Relaxed);
        self.exceeded.load(Ordering::Relaxed)
    }

    /// What a statement that took `own` steps by its counter has used since [`arm`](Self::arm), with
    /// what ran beneath it. Only known of a statement that was limited.
    pub(crate) fn used(&self, own: u64) -> u64 {
        let counted = self.looks.load(Ordering::Relaxed).saturating_mul(STEP_QUANTUM);
        counted.saturating_add(own % STEP_QUANTUM)
    }

    /// Allows everything that runs from now on about so many steps together, however many statements it is.
    pub(crate) fn allow(&self, steps: u64) {
        self.allowance.store(steps.div_ceil(STEP_QUANTUM), Ordering::Relaxed);
        self.overdrawn.store(false, Ordering::Relaxed);
    }

    /// Allows any number of steps again.
    pub(crate) fn allow_all(&self) {
        self.allowance.store(LOOKS_UNLIMITED, Ordering::Relaxed);
        self.overdrawn.store(false, Ordering::Relaxed);
    }

    /// Whether there is an allowance.
    pub(crate) fn has_allowance(&self) -> bool {
        self.allowance.load(Ordering::Relaxed) != LOOKS_UNLIMITED
    }

    /// Uses up the allowance for what takes no steps.
    pub(crate) fn overdraw(&self) {
        self.allowance.store(0, Ordering::Relaxed);
        self.overdrawn.store(true, Ordering::Relaxed);
    }

    /// Whether something was stopped because the allowance was used up. What ran until then, and whatever it
    /// made of being stopped, must be rolled back.
    pub(crate) fn is_overdrawn(&self) -> bool {
        self.overdrawn.load(Ordering::Relaxed)
    }

    /// Takes looks from the allowance; false if there are not so many left.
    fn spend(&self, looks: u64) -> bool {
        let left = self.allowance.load(Ordering::Relaxed);
        if left == LOOKS_UNLIMITED {
            return true;
        }
        self.allowance.store(left.saturating_sub(looks), Ordering::Relaxed);
        if left < looks {
            self.overdrawn.store(true, Ordering::Relaxed);
        }
        left >= looks
    }
}

impl Meter for StepBudget {
    /// One thread at a time uses the connection, so loading and storing need not be one operation.
    fn take(&self, looks: u64) -> bool {
        if !self.spend(looks) {
            return false;
        }
        if !self.armed.load(Ordering::Relaxed) {
            return true;
        }
        let used = self.looks.load(Ordering::Relaxed).saturating_add(looks);
        self.looks.store(used, Ordering::Relaxed);
        let left = self.looks_left.load(Ordering::Relaxed);
        self.looks_left.store(left.saturating_sub(looks), Ordering::Relaxed);
        if left < looks {
            self.exceeded.store(true, Ordering::Relaxed);
        }
        left >= looks
    }
}

/// What compiling a statement with this text counts for, besides [`STEPS_PER_COMPILING`] and [`tangle`]. SQLite
/// compares each named parameter with all names before it.
pub(crate) fn compiling(text: &str, statement: &ClientStatement) -> u64 {
    let Some(prepared) = &statement.compiled.statement else { return 0 };
    let slots = prepared.parameter_count();
    let comparisons = if slots > FEW_PARAMETERS {
        tokens(text)
            .filter(|token| token.kind == TokenKind::Variable && token.text != "?")
            .count()
            .saturating_mul(slots)
    } else {
        0
    };
    (text.len() / BYTES_PER_STEP + comparisons / COMPARISONS_PER_STEP) as u64
        + statement.costly_bytes / COSTLY_BYTES_PER_STEP
}

/// What the first statement of a text counts for because its parts are compared with each other while it is
/// compiled: constants, terms of conditions and common table expressions each with all others, windows more
/// thoroughly. Lists of values have no such parts. To be asked before it is compiled, as nothing stops that.
pub(crate) fn tangle(text: &str) -> u64 {
    if text.len() < SHORTEST_TANGLE {
        return 0;
    }
    let statement = statements(text).next().map_or("", |piece| piece.text);
    let (mut parts, mut windows) = (0_u64, 0_u64);
    let mut before = None;
    for token in tokens(statement).filter(Token::is_significant) {
        match token.kind {
            TokenKind::Word if token.is_word("OVER") => windows += 1,
            TokenKind::Word if CONNECTING_WORDS.iter().any(|word| token.is_word(word)) => {
                parts += 1;
            }
            // The sign of a number in a list is no operator.
            TokenKind::Operator
                if token.text != "," && token.text != "." && before != Some(",") =>
            {
                parts += 1;
            }
            _ => {}
        }
        before = Some(if token.kind == TokenKind::OpenParenthesis { "," } else { token.text });
    }
    let pairs = |count: u64| count.saturating_mul(count);
    pairs(parts) / PAIRS_PER_STEP + pairs(windows).saturating_mul(STEPS_PER_WINDOW_PAIR)
}

/// Keeps `max_page_count` of the writer where it must be.
#[derive(Debug)]
pub(crate) struct PageLimit {
    /// What the connection's `max_page_count` is.
    current: u64,
}

impl PageLimit {
    /// Of a connection on which it was never set.
    pub(crate) fn new() -> Self {
        Self { current: PAGES_UNLIMITED }
    }

    /// Before an entry whose requests may each add `budget` pages to at least `pages`: makes sure
    /// that the limit is not above what any of them may reach.
    ///
    /// # Errors
    /// A failure of this node.
    pub(crate) fn guard(
        &mut self,
        writer: &Connection,
        pages: u64,
        budget: u64,
    ) -> Result<(), SqliteError> {
        if budget == 0 {
            return self.lift(writer);
        }
        let allowed = pages.saturating_add(budget);
        if self.current <= allowed && self.current > pages.saturating_add(budget / 2) {
            return Ok(());
        }
        self.set(writer, allowed)
    }

    /// Takes the limit away.
    ///
    /// # Errors
    /// A failure of this node.
    pub(crate) fn lift(&mut self, writer: &Connection) -> Result<(), SqliteError> {
        self.set(writer, PAGES_UNLIMITED)
    }

    /// Sets the limit.
    ///
    /// # Errors
    /// A failure of this node.
    pub(crate) fn set(&mut self, writer: &Connection, limit: u64) -> Result<(), SqliteError> {
        let limit = limit.min(PAGES_UNLIMITED);
        if limit != self.current {
            writer.execute_batch(&format!("PRAGMA max_page_count={limit}"))?;
            self.current = limit;
        }
        Ok(())
    }
}

/// The failure of a statement that used more steps than its request had left of `steps`.
pub(crate) fn steps_exceeded(steps: u64, origin: Origin) -> SqlError {
    let message = format!(
        "statement stopped: its request needs more than {steps} steps, the limit of one request's work"
    );
    SqlError { kind: ErrorKind::Budget, message, origin }
}

/// The failure of a statement whose request had no steps left of `steps` when it was to begin.
pub(crate) fn steps_used_up(steps: u64, origin: Origin) -> SqlError {
    let message = format!(
        "statement not run: those before it used up {steps} steps, the limit of one request's work"
    );
    SqlError { kind: ErrorKind::Budget, message, origin }
}

/// The failure of a statement when compiling it and those before it counts for more than `steps`.
pub(crate) fn compiling_used_up(steps: u64) -> SqlError {
    let message = format!(
        "statement not run: compiling the statements of its request takes more than {steps} steps, \
         the limit of one request's work"
    );
    SqlError { kind: ErrorKind::Budget, message, origin: Origin::Write }
}

/// The failure of a statement that SQLite ended with `SQLITE_FULL` although the disk is not full.
pub(crate) fn pages_exceeded(pages: u64, origin: Origin) -> SqlError {
    let message = format!(
        "database or disk is full: the request would add more than {pages} pages, its limit \
         (or the table has no rowid left)"
    );
    SqlError { kind: ErrorKind::Budget, message, origin }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looks_until_stopped(steps: u64) -> u64 {
        let budget = StepBudget::default();
        budget.arm(steps);
        (1..).find(|_| !budget.take(1)).unwrap()
    }

    #[test]
    fn a_statement_is_stopped_at_the_first_look_beyond_its_steps() {
        assert_eq!(looks_until_stopped(1), 2);
        assert_eq!(looks_until_stopped(STEP_QUANTUM), 2);
        assert_eq!(looks_until_stopped(STEP_QUANTUM + 1), 3);
    }

    #[test]
    fn looks_and_what_is_left_of_a_quantum_are_used() {
        let budget = StepBudget::default();
        budget.arm(10 * STEP_QUANTUM);
        assert_eq!(budget.used(999), 999);
        // Two looks of its own, one of a statement beneath it.
        assert!((0..3).all(|_| budget.take(1)));
        assert_eq!(budget.used(2 * STEP_QUANTUM + 7), 3 * STEP_QUANTUM + 7);
        budget.arm(10 * STEP_QUANTUM);
        assert_eq!(budget.used(1), 1);
    }

    #[test]
    fn without_a_limit_or_disarmed_nothing_is_stopped() {
        let budget = StepBudget::default();
        budget.arm(0);
        assert!((0..1000).all(|_| budget.take(1)));
        budget.arm(1);
        assert!(!budget.disarm());
        assert!((0..1000).all(|_| budget.take(1)));
    }
    #[test]
    fn parts_that_are_compared_with_each_other_count_by_their_pairs() {
        let list = |item: &str, separator: &str| vec![item; 10_000].join(separator);
        let with = |text: String| tangle(&text);
        // Ten thousand rows of three values: the longest lists there are, compiled in one go.
        assert!(with(format!("INSERT INTO t VALUES {}", list("(1,-2,'three')", ","))) < 100);
        assert!(with(format!("SELECT a IN ({})", list("-1.5", ", "))) < 100);
        let cases = format!("SELECT CASE a {} END", list("WHEN 1 THEN 'one'", " "));
        assert_eq!(with(cases), 20_000 * 20_000 / PAIRS_PER_STEP);
        let tables = format!("WITH {} SELECT 1", list("c AS (SELECT 1)", ", "));
        assert_eq!(with(tables), 10_000 * 10_000 / PAIRS_PER_STEP);
        let windows = format!("SELECT {}", list("sum(a) OVER (ORDER BY b)", "+"));
        assert!(with(windows) > 10_000 * 10_000 * STEPS_PER_WINDOW_PAIR);
        // Only of the first statement, which the body of a trigger belongs to.
        let body = format!("BEGIN SELECT 1; SELECT {}; END;", list("a", "+"));
        let trigger = format!("CREATE TRIGGER r AFTER INSERT ON t {body}");
        assert_eq!(with(trigger), 9_999 * 9_999 / PAIRS_PER_STEP);
        assert_eq!(with(format!("SELECT 1; SELECT {}", list("a", "+"))), 0);
    }
}
