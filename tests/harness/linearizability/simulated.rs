//! Tests of the search: histories by hand, histories of simulated clients with one thing made wrong,
//! and small histories compared with trying every order.

use std::time::Instant;

use super::{
    Bank, BankCall, BankSeen, List, ListCall, ListSeen, Model, Operation, OperationOf, Register,
    RegisterCall, RegisterSeen, Transfer, Verdict, search, search::search_within, search_by_key,
};
use crate::Random;

type Operations<M> = Vec<OperationOf<M>>;

/// An operation of a register as text: `1 w5 0-3` is client 1 writing 5 from 0 to 3, `r5` reads 5,
/// `r_` reads nothing, `x5:6+` exchanges 5 for 6, `x5:6-` fails to; `-?` at the end is unknown.
fn register(text: &str) -> Operations<Register> {
    text.split(", ").map(register_operation).collect()
}

fn register_operation(text: &str) -> Operation<RegisterCall, RegisterSeen> {
    let mut words = text.split(' ');
    let mut word = || words.next().unwrap();
    let (client, what, times) = (word().parse().unwrap(), word(), word());
    let (sent, end) = times.split_once('-').unwrap();
    let (call, seen) = match what.split_at(1) {
        ("w", value) => (RegisterCall::Write(value.parse().unwrap()), RegisterSeen::Written),
        ("r", value) => (RegisterCall::Read, RegisterSeen::Value(value.parse().ok())),
        ("x", values) => {
            let (values, sign) = values.split_at(values.len() - 1);
            let (old, new) = values.split_once(':').unwrap();
            let call = RegisterCall::Exchange(old.parse().unwrap(), new.parse().unwrap());
            (call, RegisterSeen::Exchanged(sign == "+"))
        }
        _ => panic!("{text}"),
    };
    let answer = (end != "?").then(|| (end.parse().unwrap(), seen));
    Operation { client, call, sent: sent.parse().unwrap(), answer }
}

#[test]
fn registers_by_hand() {
    let cases = [
        ("one after the other", "1 w1 0-1, 2 r1 2-3", true),
        ("nothing was written yet", "1 r_ 0-1, 1 w1 2-3, 1 r1 4-5", true),
        ("a stale read", "1 w1 0-1, 1 w2 2-3, 2 r1 4-5", false),
        ("a lost write", "1 w1 0-1, 2 r_ 2-3", false),
        ("a read of what nobody wrote", "1 w1 0-1, 2 r7 2-3", false),
        ("a read while a write runs, before it", "1 w1 0-1, 1 w2 2-5, 2 r1 3-4", true),
        ("a read while a write runs, after it", "1 w1 0-1, 1 w2 2-5, 2 r2 3-4", true),
        ("back in time while a write runs", "1 w1 0-9, 2 r1 1-2, 3 r_ 3-4", false),
        ("a write that touches a read counts as at the same time", "1 w1 0-3, 2 r_ 3-4", true),
        ("unknown and done later", "1 w1 0-1, 2 w2 2-?, 1 r1 3-4, 1 r2 8-9", true),
        ("unknown and never done", "1 w1 0-1, 2 w2 2-?, 1 r1 3-4, 1 r1 8-9", true),
        ("unknown, done and undone", "1 w1 0-1, 2 w2 2-?, 1 r2 3-4, 1 r1 8-9", false),
        ("unknown, done before it was sent", "1 w1 0-1, 1 r2 2-3, 2 w2 4-?", false),
        ("two unknown, either order", "1 w1 0-?, 2 w2 0-?, 3 r2 3-4, 3 r1 5-6", true),
        (
            "two unknown, one of them twice",
            "1 w1 0-?, 2 w2 0-?, 3 r2 3-4, 3 r1 5-6, 3 r2 7-8",
            false,
        ),
        ("an exchange", "1 w1 0-1, 2 x1:2+ 2-3, 3 r2 4-5", true),
        ("an exchange that could not fail", "1 w1 0-1, 2 x1:2- 2-3", false),
        ("two exchanges of the same value", "1 w1 0-1, 2 x1:2+ 2-5, 3 x1:3+ 2-5", false),
        ("the same, one of them unknown", "1 w1 0-1, 2 x1:2+ 2-5, 3 x1:3+ 2-?", true),
        (
            "an unknown exchange explains a read",
            "1 w1 0-1, 2 x1:2- 2-5, 3 x1:3+ 2-?, 1 r3 6-7",
            true,
        ),
    ];
    for (name, text, expected) in cases {
        let verdict = search(&Register, &register(text));
        assert_eq!(verdict == Verdict::Linearizable, expected, "{name}: {verdict:?}");
        assert_eq!(verdict.is_violation(), !expected, "{name}: {verdict:?}");
    }
}

#[test]
fn a_violation_names_what_cannot_be() {
    let verdict =
        search(&Register, &register("1 w1 0-1, 1 w2 2000000-3000000, 2 r1 4000000-5000000"));
    let Verdict::Violation(text) = verdict else { panic!("{verdict:?}") };
    let last = text.lines().last().unwrap();
    assert_eq!(last, "  client 2, 4.000 ms to 5.000 ms: Read -> Value(Some(1))");
}

#[test]
fn keys_are_checked_apart() {
    let good = register("1 w1 0-1, 2 r1 2-3");
    let bad = register("1 w1 0-1, 2 r_ 2-3");
    let keyed = |operations: &Operations<Register>, key| {
        operations.iter().map(|operation| (key, operation.clone())).collect::<Vec<_>>()
    };
    // Mixed into one register these are impossible; as two they are not.
    let two = [keyed(&good, "a"), keyed(&register("3 r_ 4-5, 3 w9 6-7, 3 r9 8-9"), "b")].concat();
    assert_eq!(search_by_key(|_| Register, &two), Verdict::Linearizable);
    let Verdict::Violation(text) =
        search_by_key(|_| Register, &[keyed(&good, "a"), keyed(&bad, "b")].concat())
    else {
        panic!("not found")
    };
    assert!(text.starts_with("key \"b\": "), "{text}");
}

/// Operations that happened one after the other, from 0 on, each taking one unit of time.
fn in_turn<C, S>(operations: Vec<(C, S)>) -> Vec<Operation<C, S>> {
    let timed = (0_u64..).zip(operations);
    let record = |(n, (call, seen))| Operation {
        client: 1,
        call,
        sent: 2 * n,
        answer: Some((2 * n + 1, seen)),
    };
    timed.map(record).collect()
}

#[test]
fn lists_by_hand() {
    let append = |element| (ListCall::Append(element), ListSeen::Appended);
    let read = |elements: &[u64]| (ListCall::Read, ListSeen::Elements(elements.to_vec()));
    let cases = [
        ("as appended", vec![read(&[]), append(1), append(2), read(&[1, 2])], true),
        ("turned round", vec![append(1), append(2), read(&[2, 1])], false),
        ("one is missing", vec![append(1), append(2), read(&[2])], false),
        ("one is doubled", vec![append(1), read(&[1, 1])], false),
        ("one is too early", vec![read(&[1]), append(1)], false),
        ("one comes late", vec![append(1), append(2), read(&[1]), read(&[1, 2])], false),
    ];
    for (name, operations, expected) in cases {
        let operations = in_turn(operations);
        let verdict = search(&List::of(&operations), &operations);
        assert_eq!(verdict == Verdict::Linearizable, expected, "{name}: {verdict:?}");
    }
}

#[test]
fn banks_by_hand() {
    let bank = Bank { accounts: vec![10, 0] };
    let transfer =
        |from, to, amount, moved| (Some(Transfer { from, to, amount }), BankSeen::Moved(moved));
    let read = |balances: [u64; 2]| (None, BankSeen::Balances(balances.to_vec()));
    let cases = [
        ("moved", vec![transfer(0, 1, 4, true), read([6, 4])], true),
        ("too little", vec![transfer(1, 0, 4, false), read([10, 0])], true),
        ("half moved", vec![transfer(0, 1, 4, true), read([6, 0])], false),
        ("money from nowhere", vec![transfer(1, 0, 4, true), read([14, 0])], false),
        ("a stale read", vec![transfer(0, 1, 4, true), read([10, 0])], false),
        ("refused though there was enough", vec![transfer(0, 1, 4, false)], false),
    ];
    for (name, operations, expected) in cases {
        let verdict = search(&bank, &in_turn(operations));
        assert_eq!(verdict == Verdict::Linearizable, expected, "{name}: {verdict:?}");
    }
    assert_eq!(bank.total(), 10);
}

/// Clients that work against one real copy: each operation takes effect at one moment between its
/// call and its answer, or at any moment after its call if its outcome is unknown, or never.
struct Simulated<'a, M: Model> {
    model: &'a M,
    clients: u64,
    count: usize,
    /// One in so many has an unknown outcome; 0 for none.
    unknown: u64,
}

impl<M: Model> Simulated<'_, M> {
    /// `call` makes the nth call; `answer` tells what the state answers.
    fn run(
        &self,
        random: &mut Random,
        mut call: impl FnMut(&mut Random, u64) -> M::Call,
        answer: impl Fn(&M::State, &M::Call) -> M::Seen,
    ) -> Operations<M> {
        let mut operations = Vec::new();
        let mut effects = Vec::new();
        let mut free = vec![0; usize::try_from(self.clients).unwrap()];
        for n in 0..self.count {
            let client = random.index(free.len());
            let sent = free[client] + random.below(50);
            let effect = sent + 1 + random.below(100);
            let end = effect + 1 + random.below(100);
            free[client] = end + 1;
            let unknown = self.unknown > 0 && random.below(self.unknown) == 0;
            let late = if unknown { random.below(3000) } else { 0 };
            if !unknown || random.below(2) == 0 {
                effects.push((effect + late, n));
            }
            let call = call(random, n as u64);
            let client = client as u64;
            operations.push((Operation { client, call, sent, answer: None }, end, unknown));
        }
        effects.sort_unstable();
        let mut state = self.model.initial();
        for (_, n) in effects {
            let (operation, end, unknown) = &mut operations[n];
            let seen = answer(&state, &operation.call);
            state = self.model.step(&state, &operation.call, Some(&seen)).unwrap();
            if !*unknown {
                operation.answer = Some((*end, seen));
            }
        }
        operations.into_iter().map(|(operation, ..)| operation).collect()
    }
}

fn simulate_register(random: &mut Random, count: usize, unknown: u64) -> Operations<Register> {
    let call = |random: &mut Random, n| match random.below(3) {
        0 => RegisterCall::Read,
        1 => RegisterCall::Write(n),
        _ => RegisterCall::Exchange(random.below(n + 1), n),
    };
    let answer = |state: &Option<u64>, call: &RegisterCall| match *call {
        RegisterCall::Read => RegisterSeen::Value(*state),
        RegisterCall::Write(_) => RegisterSeen::Written,
        RegisterCall::Exchange(expected, _) => RegisterSeen::Exchanged(*state == Some(expected)),
    };
    Simulated { model: &Register, clients: 8, count, unknown }.run(random, call, answer)
}

/// Appends and reads; the model knows lists by length only, so what a read saw is worked out here.
fn simulate_list(random: &mut Random, count: usize, unknown: u64) -> Operations<List> {
    /// The same list with its elements.
    struct Whole;
    impl Model for Whole {
        type Call = ListCall;
        type Seen = ListSeen;
        type State = Vec<u64>;
        fn initial(&self) -> Vec<u64> {
            Vec::new()
        }
        fn step(
            &self,
            state: &Vec<u64>,
            call: &ListCall,
            _: Option<&ListSeen>,
        ) -> Option<Vec<u64>> {
            let mut state = state.clone();
            if let ListCall::Append(element) = call {
                state.push(*element);
            }
            Some(state)
        }
    }
    let call = |random: &mut Random, n| match random.below(2) {
        0 => ListCall::Read,
        _ => ListCall::Append(n),
    };
    let answer = |state: &Vec<u64>, call: &ListCall| match call {
        ListCall::Read => ListSeen::Elements(state.clone()),
        ListCall::Append(_) => ListSeen::Appended,
    };
    Simulated { model: &Whole, clients: 8, count, unknown }.run(random, call, answer)
}

fn simulate_bank(random: &mut Random, bank: &Bank, count: usize, unknown: u64) -> Operations<Bank> {
    let call = |random: &mut Random, _| -> BankCall {
        let from = random.index(bank.accounts.len());
        let to = (from + 1 + random.index(bank.accounts.len() - 1)) % bank.accounts.len();
        let amount = 1 + random.below(8);
        (random.below(2) == 0).then_some(Transfer { from, to, amount })
    };
    let answer = |state: &Vec<u64>, call: &BankCall| match call {
        None => BankSeen::Balances(state.clone()),
        Some(Transfer { from, amount, .. }) => BankSeen::Moved(state[*from] >= *amount),
    };
    Simulated { model: bank, clients: 5, count, unknown }.run(random, call, answer)
}

#[test]
fn simulated_histories_are_explained() {
    let bank = Bank { accounts: vec![20; 5] };
    for seed in 0..60 {
        let mut random = Random::new(seed);
        let unknown = [0, 10, 40][random.index(3)];
        let operations = simulate_register(&mut random, 300, unknown);
        search(&Register, &operations).assert_linearizable(&format!("register, seed {seed}"));
        let operations = simulate_list(&mut random, 300, unknown);
        search(&List::of(&operations), &operations)
            .assert_linearizable(&format!("list, seed {seed}"));
        let operations = simulate_bank(&mut random, &bank, 200, unknown * 2);
        search(&bank, &operations).assert_linearizable(&format!("bank, seed {seed}"));
    }
}

#[test]
fn a_stale_read_among_many_is_found() {
    let mut found = 0;
    for seed in 0..60 {
        let mut random = Random::new(seed);
        let mut operations = simulate_register(&mut random, 300, 40);
        // Every written value is another one, so a value that was certainly overwritten between its
        // write and the read can be explained by nothing.
        let write_end = |operation: &Operation<RegisterCall, RegisterSeen>| {
            let (end, seen) = operation.answer?;
            match (operation.call, seen) {
                (RegisterCall::Write(value), _) => Some((operation.sent, end, value)),
                _ => None,
            }
        };
        let writes: Vec<_> = operations.iter().filter_map(write_end).collect();
        let stale = |read: u64| {
            let (_, end, value) = writes.iter().find(|(_, end, _)| *end < read)?;
            writes.iter().find(|(sent, over, _)| sent > end && *over < read).map(|_| *value)
        };
        let reads: Vec<_> = (0..operations.len())
            .filter(|n| operations[*n].call == RegisterCall::Read)
            .filter(|n| operations[*n].answer.is_some() && stale(operations[*n].sent).is_some())
            .collect();
        let read = reads[random.index(reads.len())];
        let value = stale(operations[read].sent);
        operations[read].answer.as_mut().unwrap().1 = RegisterSeen::Value(value);
        let verdict = search(&Register, &operations);
        assert!(verdict.is_violation(), "seed {seed}, operation {read}: {verdict:?}");
        found += 1;
    }
    assert_eq!(found, 60);
}

#[test]
fn a_damaged_list_is_found() {
    for seed in 0..60 {
        let mut random = Random::new(seed);
        let mut operations = simulate_list(&mut random, 300, 40);
        let long: Vec<_> = (0..operations.len())
            .filter(|n| {
                matches!(&operations[*n].answer, Some((_, ListSeen::Elements(list))) if list.len() > 20)
            })
            .collect();
        let read = long[random.index(long.len())];
        let Some((_, ListSeen::Elements(list))) = &mut operations[read].answer else { panic!() };
        // The first elements were acknowledged, or read by others, long before.
        match random.below(4) {
            0 => drop(list.remove(random.index(5))),
            1 => list.push(list[0]),
            2 => list.swap(0, 15),
            _ => list.push(1_000_000),
        }
        let verdict = search(&List::of(&operations), &operations);
        assert!(verdict.is_violation(), "seed {seed}, operation {read}: {verdict:?}");
    }
}

#[test]
fn money_from_nowhere_is_found() {
    let bank = Bank { accounts: vec![20; 5] };
    for seed in 0..60 {
        let mut random = Random::new(seed);
        let mut operations = simulate_bank(&mut random, &bank, 200, 80);
        let reads: Vec<_> = (0..operations.len())
            .filter(|n| matches!(operations[*n].answer, Some((_, BankSeen::Balances(_)))))
            .collect();
        let read = reads[random.index(reads.len())];
        let Some((_, BankSeen::Balances(balances))) = &mut operations[read].answer else {
            panic!()
        };
        balances[random.index(5)] += 1;
        let verdict = search(&bank, &operations);
        assert!(verdict.is_violation(), "seed {seed}, operation {read}: {verdict:?}");
    }
}

/// Tries every order of every choice of what unknown operations did.
fn explainable(operations: &[Operation<RegisterCall, RegisterSeen>], state: Option<u64>) -> bool {
    if operations.iter().all(|operation| operation.answer.is_none()) {
        return true;
    }
    let first_end =
        operations.iter().filter_map(|operation| operation.answer).map(|(end, _)| end).min();
    (0..operations.len()).any(|n| {
        let operation = &operations[n];
        let seen = operation.answer.map(|(_, seen)| seen);
        let mut rest = operations.to_vec();
        rest.remove(n);
        first_end.is_none_or(|end| operation.sent <= end)
            && Register
                .step(&state, &operation.call, seen.as_ref())
                .is_some_and(|state| explainable(&rest, state))
    })
}

#[test]
fn small_histories_are_judged_as_by_trying_every_order() {
    let mut verdicts = [0, 0];
    for seed in 0..3000 {
        let mut random = Random::new(seed);
        let operations: Vec<_> = (0..2 + random.below(5))
            .map(|client| {
                let (call, seen) = match random.below(3) {
                    0 => {
                        let value = random.below(3);
                        (RegisterCall::Read, RegisterSeen::Value((value > 0).then_some(value)))
                    }
                    1 => (RegisterCall::Write(1 + random.below(2)), RegisterSeen::Written),
                    _ => (
                        RegisterCall::Exchange(1 + random.below(2), 1 + random.below(2)),
                        RegisterSeen::Exchanged(random.below(2) == 0),
                    ),
                };
                let sent = random.below(10);
                let end = sent + random.below(6);
                let answer = (random.below(5) > 0).then_some((end, seen));
                Operation { client, call, sent, answer }
            })
            .collect();
        let expected = explainable(&operations, None);
        let verdict = search(&Register, &operations);
        assert_eq!(verdict == Verdict::Linearizable, expected, "seed {seed}: {operations:?}");
        verdicts[usize::from(expected)] += 1;
    }
    assert!(verdicts.iter().all(|count| *count > 300), "one-sided: {verdicts:?}");
}

#[test]
fn a_search_beyond_its_limit_says_so() {
    let mut random = Random::new(1);
    let operations = simulate_register(&mut random, 300, 0);
    assert_eq!(search_within(&Register, &operations, 20), Verdict::TooHard);
}

#[test]
fn ten_thousand_operations_are_checked() {
    let mut random = Random::new(1);
    let begin = Instant::now();
    search(&Register, &simulate_register(&mut random, 10_000, 200)).assert_linearizable("register");
    let keyed: Vec<_> = (0..50)
        .flat_map(|key| {
            let operations = simulate_list(&mut random, 200, 100);
            operations.into_iter().map(move |operation| (key, operation))
        })
        .collect();
    search_by_key(List::of, &keyed).assert_linearizable("lists");
    println!("checked 20,000 operations in {:?}", begin.elapsed());
}
