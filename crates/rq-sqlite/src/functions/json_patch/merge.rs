//! Merges a patch into a target as RFC 7396 says, in time proportional to both.
//!
//! SQLite compares each label of the patch with all labels of the target and moves what stands behind
//! every change. Here an object that is patched is taken apart once and its labels are indexed when they
//! are looked for more than a few times. The result is SQLite's to the byte: of members that bear the same
//! name the first is meant, members are removed or appended one after the other, an object whose size
//! changed gets the shortest header, and a value that replaces one which is up to 8 bytes longer is made
//! as long by a longer header, if it can be. What is malformed is noticed when it is passed.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, Hasher as _, RandomState},
};

use super::{
    super::reserved::{Refused, Reserved},
    element::{Element, Label, shortest_header, write_object_header},
};

/// How many labels an object may be asked for before they are indexed.
const SEARCHES_WITHOUT_INDEX: u32 = 8;

/// How deep objects may be nested in each other.
const DEEPEST: u32 = 1000;

/// What a member of an object that is taken apart takes in memory at most, with its places in indexes.
const BYTES_PER_MEMBER: usize = 192;

/// Why there is no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MergeError {
    /// What was passed is no JSONB.
    Malformed,
    /// More than [`DEEPEST`] objects in each other.
    TooDeep,
    /// There is not so much memory.
    NoMemory,
}

impl From<Refused> for MergeError {
    fn from(_: Refused) -> Self {
        Self::NoMemory
    }
}

/// Merges two elements.
///
/// # Errors
/// See [`MergeError`].
pub(super) fn merge(target: Element<'_>, patch: Element<'_>) -> Result<Vec<u8>, MergeError> {
    let mut result = Value::Whole(target.bytes());
    let mut merge = Merge { reserved: Reserved::new(), state: RandomState::new() };
    merge.apply(&mut result, patch, 0)?;
    merge.reserved.take(result.length())?;
    let mut out = Vec::with_capacity(result.length());
    result.write(&mut out);
    Ok(out)
}

/// A value on its way to the result.
enum Value<'a> {
    /// Taken over as it is.
    Whole(&'a [u8]),
    /// With a longer header than it came with. Never an object.
    Widened(Box<[u8]>),
    /// Taken apart.
    Object(Box<Object<'a>>),
}

impl Value<'_> {
    fn length(&self) -> usize {
        match self {
            Self::Whole(bytes) => bytes.len(),
            Self::Widened(bytes) => bytes.len(),
            Self::Object(object) => object.header + object.payload,
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Whole(bytes) => out.extend_from_slice(bytes),
            Self::Widened(bytes) => out.extend_from_slice(bytes),
            Self::Object(object) => {
                write_object_header(object.payload, object.header, out);
                for member in &object.members {
                    if let Some(value) = &member.value {
                        out.extend_from_slice(member.label);
                        value.write(out);
                    }
                }
                out.extend_from_slice(object.rest);
            }
        }
    }
}

/// A member of an object, or what was one.
struct Member<'a> {
    label: &'a [u8],
    /// `None` once it was removed.
    value: Option<Value<'a>>,
}

impl<'a> Member<'a> {
    fn label(&self) -> Option<Label<'a>> {
        Element::first(self.label)?.label()
    }
}

/// An object that is taken apart.
struct Object<'a> {
    /// The length of the header in bytes.
    header: usize,
    /// The length of all members in bytes, with `rest`.
    payload: usize,
    members: Vec<Member<'a>>,
    /// What follows the last member that could be read: nothing, or something malformed.
    rest: &'a [u8],
    searches: u32,
    /// What a label without escapes finds.
    plain: Option<Index>,
    /// What a label with escapes finds.
    escaped: Option<Index>,
}

impl<'a> Object<'a> {
    fn empty(header: usize) -> Self {
        Self {
            header,
            payload: 0,
            members: Vec::new(),
            rest: &[],
            searches: 0,
            plain: None,
            escaped: None,
        }
    }

    /// Appends what can be read of members.
    fn read(&mut self, payload: &'a [u8], reserved: &mut Reserved) -> Result<(), Refused> {
        (self.payload, self.rest) = (payload.len(), payload);
        while let Some((label, value, rest)) = first_member(self.rest) {
            reserved.take(BYTES_PER_MEMBER)?;
            self.members
                .push(Member { label: label.bytes(), value: Some(Value::Whole(value.bytes())) });
            self.rest = rest;
        }
        Ok(())
    }

    /// The place of the first member of that name.
    fn find(&mut self, label: Label<'_>, state: &RandomState) -> Result<Option<usize>, MergeError> {
        self.searches = self.searches.saturating_add(1);
        let found = if self.searches <= SEARCHES_WITHOUT_INDEX {
            self.members.iter().position(|member| is_named(member, label))
        } else {
            self.find_indexed(label, state)
        };
        // Looking for what is not there goes through the whole object.
        if found.is_none() && !self.rest.is_empty() {
            return Err(MergeError::Malformed);
        }
        Ok(found)
    }

    fn find_indexed(&mut self, label: Label<'_>, state: &RandomState) -> Option<usize> {
        let members = &self.members;
        if label.is_escaped() {
            let index = self.escaped.get_or_insert_with(|| {
                Index::of(members.iter().map(|member| by_characters(member, state)))
            });
            return index.first(hash_characters(label, state), members, label);
        }
        let index = self
            .plain
            .get_or_insert_with(|| Index::of(members.iter().map(|member| by_bytes(member, state))));
        let as_bytes = index.first(hash_bytes(label, state), members, label);
        let as_characters = index.first(hash_characters(label, state), members, label);
        as_bytes.into_iter().chain(as_characters).min()
    }

    fn append(&mut self, label: &'a [u8], value: Value<'a>, state: &RandomState) {
        self.payload += label.len() + value.length();
        let member = Member { label, value: Some(value) };
        if let Some(index) = &mut self.plain {
            index.push(by_bytes(&member, state));
        }
        if let Some(index) = &mut self.escaped {
            index.push(by_characters(&member, state));
        }
        self.members.push(member);
    }
}

/// Label, value and what follows; `None` if there is no member or it is malformed.
fn first_member(bytes: &[u8]) -> Option<(Element<'_>, Element<'_>, &[u8])> {
    let label = Element::first(bytes)?;
    label.label()?;
    let bytes = &bytes[label.bytes().len()..];
    let value = Element::first(bytes)?;
    Some((label, value, &bytes[value.bytes().len()..]))
}

fn is_named(member: &Member<'_>, label: Label<'_>) -> bool {
    member.value.is_some() && member.label().is_some_and(|own| own.names_the_same_as(label))
}

fn by_bytes(member: &Member<'_>, state: &RandomState) -> u64 {
    member.label().map_or(0, |label| {
        if label.is_escaped() { hash_characters(label, state) } else { hash_bytes(label, state) }
    })
}

fn by_characters(member: &Member<'_>, state: &RandomState) -> u64 {
    member.label().map_or(0, |label| hash_characters(label, state))
}

fn hash_bytes(label: Label<'_>, state: &RandomState) -> u64 {
    let mut hasher = state.build_hasher();
    label.hash_bytes(&mut hasher);
    hasher.finish()
}

fn hash_characters(label: Label<'_>, state: &RandomState) -> u64 {
    let mut hasher = state.build_hasher();
    label.hash_characters(&mut hasher);
    hasher.finish()
}

/// Ends a chain of members.
const NO_MEMBER: u32 = u32::MAX;

/// The members of an object by the hashes of their labels: chains in the order of the members.
struct Index {
    /// First and last of each chain. The first moves behind members that were removed.
    chains: HashMap<u64, (u32, u32)>,
    /// For each member the next of its chain.
    next: Vec<u32>,
}

impl Index {
    fn of(hashes: impl Iterator<Item = u64>) -> Self {
        let mut index = Self { chains: HashMap::new(), next: Vec::new() };
        hashes.for_each(|hash| index.push(hash));
        index
    }

    fn push(&mut self, hash: u64) {
        let place = u32::try_from(self.next.len()).unwrap_or(NO_MEMBER);
        self.next.push(NO_MEMBER);
        let (first, last) = self.chains.entry(hash).or_insert((place, place));
        if *first == NO_MEMBER {
            (*first, *last) = (place, place);
        } else if *last != place {
            self.next[*last as usize] = place;
            *last = place;
        }
    }

    fn first(&mut self, hash: u64, members: &[Member<'_>], label: Label<'_>) -> Option<usize> {
        let (first, _) = self.chains.get_mut(&hash)?;
        while *first != NO_MEMBER && members[*first as usize].value.is_none() {
            *first = self.next[*first as usize];
        }
        let mut place = *first;
        while place != NO_MEMBER {
            if is_named(&members[place as usize], label) {
                return Some(place as usize);
            }
            place = self.next[place as usize];
        }
        None
    }
}

/// A merge under way.
struct Merge {
    reserved: Reserved,
    state: RandomState,
}

impl Merge {
    /// Makes of a value what the patch says.
    fn apply<'a>(
        &mut self,
        target: &mut Value<'a>,
        patch: Element<'a>,
        depth: u32,
    ) -> Result<(), MergeError> {
        if !patch.is_object() {
            let shorter = target.length().saturating_sub(patch.bytes().len());
            let widened = patch.widened(shorter);
            *target = widened.map_or(Value::Whole(patch.bytes()), Value::Widened);
            return Ok(());
        }
        let (object, before) = self.opened(target)?;
        let mut rest = patch.payload();
        while !rest.is_empty() {
            let (label, value, following) = first_member(rest).ok_or(MergeError::Malformed)?;
            self.apply_member(object, label, value, depth)?;
            rest = following;
        }
        if object.payload != before {
            object.header = shortest_header(object.payload);
        }
        Ok(())
    }

    /// Takes a value apart if it is not yet, with the length its payload had; what is no object becomes
    /// an empty one.
    fn opened<'v, 'a>(
        &mut self,
        target: &'v mut Value<'a>,
    ) -> Result<(&'v mut Object<'a>, usize), MergeError> {
        let mut before = None;
        if let Value::Whole(_) | Value::Widened(_) = target {
            let (bytes, whole): (&[u8], Option<&'a [u8]>) = match target {
                Value::Widened(bytes) => (bytes, None),
                Value::Whole(bytes) => (bytes, Some(bytes)),
                Value::Object(_) => (&[], None),
            };
            let element = Element::first(bytes).ok_or(MergeError::Malformed)?;
            before = Some(element.payload().len());
            let mut object = Object::empty(element.header());
            if let Some(whole) = whole.filter(|_| element.is_object()) {
                object.read(&whole[element.header()..], &mut self.reserved)?;
            }
            *target = Value::Object(Box::new(object));
        }
        match target {
            Value::Object(object) => {
                let before = before.unwrap_or(object.payload);
                Ok((object, before))
            }
            Value::Whole(_) | Value::Widened(_) => Err(MergeError::Malformed),
        }
    }

    fn apply_member<'a>(
        &mut self,
        object: &mut Object<'a>,
        label: Element<'a>,
        patch: Element<'a>,
        depth: u32,
    ) -> Result<(), MergeError> {
        let name = label.label().ok_or(MergeError::Malformed)?;
        if let Some(place) = object.find(name, &self.state)? {
            let member = &mut object.members[place];
            if patch.is_null() {
                let removed = member.value.take().map_or(0, |value| value.length());
                object.payload -= member.label.len() + removed;
            } else if let Some(value) = &mut member.value {
                let length = value.length();
                self.apply_below(value, patch, depth)?;
                object.payload = object.payload - length + value.length();
            }
            return Ok(());
        }
        if patch.is_null() {
            return Ok(());
        }
        self.reserved.take(BYTES_PER_MEMBER)?;
        let mut value = Value::Whole(patch.bytes());
        if patch.is_object() {
            value = Value::Object(Box::new(Object::empty(1)));
            self.apply_below(&mut value, patch, depth)?;
        }
        object.append(label.bytes(), value, &self.state);
        Ok(())
    }

    fn apply_below<'a>(
        &mut self,
        target: &mut Value<'a>,
        patch: Element<'a>,
        depth: u32,
    ) -> Result<(), MergeError> {
        if depth >= DEEPEST {
            return Err(MergeError::TooDeep);
        }
        self.apply(target, patch, depth + 1)
    }
}
