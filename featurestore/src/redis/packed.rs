//! The bytes of values in Redis. They are described for others in `docs/redis.md`, which must be kept true.
//!
//! Every value starts with the version of its form, and those that events are folded into go on with a stamp: the entry
//! of the shared log up to which they know all.

use crate::event::{Event, EventNumbers, EventTypeId, MAX_EVENT_NUMBERS};
use crate::ids::{ItemId, UserId};
use crate::plan::FeaturePlan;
use crate::store::UserState;
use crate::time::Timestamp;

use super::error::RedisError;

/// The form of all values.
pub(super) const VERSION: u8 = 1;

/// Bytes of version and stamp.
pub(super) const HEADER_BYTES: usize = 9;

/// Marks a kind of event whose numbers follow.
const HAS_NUMBERS: u8 = 0x80;

/// Strength of the compression of long histories.
const ZSTD_LEVEL: i32 = 1;

/// Most bytes of an unpacked history: a value that claims more is not believed.
const MAX_BASE_BYTES: usize = 256 << 20;

/// A place in the shared log: `milliseconds << 16 | number within the millisecond` of an entry of the stream. 0 is before
/// the first.
pub type Stamp = u64;

pub(super) fn header(stamp: Stamp) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    bytes.extend(stamp.to_le_bytes());
    bytes
}

/// The stamp of a value, and what comes behind it.
pub(super) fn split_header<'a>(
    bytes: &'a [u8],
    what: &dyn Fn() -> String,
) -> Result<(Stamp, &'a [u8]), RedisError> {
    let malformed = |reason: &str| RedisError::Malformed(format!("{} {reason}", what()));
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return Err(malformed("is too short"));
    };
    if header[0] != VERSION {
        return Err(malformed("has another version"));
    }
    let mut stamp = [0; 8];
    stamp.copy_from_slice(&header[1..]);
    Ok((Stamp::from_le_bytes(stamp), rest))
}

/// Numbers of a record behind a header.
pub(super) fn pack_record(stamp: Stamp, record: &[f64]) -> Vec<u8> {
    let mut bytes = header(stamp);
    bytes.extend(record.iter().flat_map(|number| number.to_le_bytes()));
    bytes
}

pub(super) fn unpack_record(
    bytes: &[u8],
    width: usize,
    what: &dyn Fn() -> String,
) -> Result<(Stamp, Vec<f64>), RedisError> {
    let (stamp, rest) = split_header(bytes, what)?;
    let (numbers, odd) = rest.as_chunks::<8>();
    if numbers.len() != width || !odd.is_empty() {
        let n = rest.len();
        return Err(RedisError::Malformed(format!(
            "{} has {n} bytes instead of {width} numbers",
            what()
        )));
    }
    Ok((stamp, numbers.iter().map(|number| f64::from_le_bytes(*number)).collect()))
}

/// The latest events of a user, one behind the other, each as the difference to the one before.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Tail {
    bytes: Vec<u8>,
    n: usize,
    time: i64,
    session: u32,
}

/// An event with the values of the fields that its item had when it was taken in.
#[derive(Clone, Debug, PartialEq)]
pub struct Noted {
    /// The entry of the shared log that it came with.
    pub stamp: Stamp,
    /// The event.
    pub event: Event,
    /// Positions of category fields of its item and the codes of their values.
    pub codes: Vec<(u8, u32)>,
}

/// What the shared log changes in the features.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// An event counts.
    Event(Noted),
    /// What a user did lately is what another did.
    Merge {
        /// The entry that says so.
        stamp: Stamp,
        /// Of whom nothing is known afterwards.
        from: UserId,
        /// Who did it.
        into: UserId,
    },
    /// What is known of a user is forgotten.
    Forget {
        /// The entry that says so.
        stamp: Stamp,
        /// The user.
        user: UserId,
    },
}

impl Change {
    /// The entry that it came with.
    pub fn stamp(&self) -> Stamp {
        match self {
            Self::Event(Noted { stamp, .. })
            | Self::Merge { stamp, .. }
            | Self::Forget { stamp, .. } => *stamp,
        }
    }

    /// Whom it changes.
    pub(super) fn users(&self) -> Vec<UserId> {
        match self {
            Self::Event(noted) => vec![noted.event.user],
            Self::Merge { from, into, .. } => vec![*from, *into],
            Self::Forget { user, .. } => vec![*user],
        }
    }

    /// The same, by an entry before the first.
    pub(super) fn unstamped(self) -> Self {
        match self {
            Self::Event(noted) => Self::Event(Noted { stamp: 0, ..noted }),
            Self::Merge { from, into, .. } => Self::Merge { stamp: 0, from, into },
            Self::Forget { user, .. } => Self::Forget { stamp: 0, user },
        }
    }
}

impl Noted {
    /// The codes of the field at `position`.
    pub(super) fn codes_of(&self, position: usize) -> impl Iterator<Item = u32> + '_ {
        let of_field = move |(field, _): &&(u8, u32)| usize::from(*field) == position;
        self.codes.iter().filter(of_field).map(|(_, code)| *code)
    }
}

impl Tail {
    /// How many events it has.
    pub(super) fn len(&self) -> usize {
        self.n
    }

    /// Appends `noted`, with the codes of the fields that `plan` folds by user.
    pub(super) fn push(&mut self, noted: &Noted, plan: &FeaturePlan) {
        let Event { time, item, session, kind, numbers, .. } = noted.event;
        let mask = numbers
            .iter()
            .enumerate()
            .fold(0u8, |mask, (i, number)| mask | u8::from(!number.is_nan()) << i);
        self.bytes.push(kind.0 | if mask == 0 { 0 } else { HAS_NUMBERS });
        push_varint(&mut self.bytes, zigzag(time.0.wrapping_sub(self.time)));
        push_varint(&mut self.bytes, u64::from(item.0));
        push_varint(&mut self.bytes, zigzag(i64::from(session) - i64::from(self.session)));
        if mask != 0 {
            self.bytes.push(mask);
            let given = numbers.iter().filter(|number| !number.is_nan());
            self.bytes.extend(given.flat_map(|number| number.to_le_bytes()));
        }
        for (field, _) in &plan.user_fields {
            let codes: Vec<u32> = noted.codes_of(*field).collect();
            match codes.as_slice() {
                [] => self.bytes.push(0),
                [one] => push_varint(&mut self.bytes, u64::from(*one) + 2),
                several => {
                    self.bytes.push(1);
                    push_varint(&mut self.bytes, several.len() as u64);
                    several.iter().for_each(|code| push_varint(&mut self.bytes, u64::from(*code)));
                }
            }
        }
        (self.n, self.time, self.session) = (self.n + 1, time.0, session);
    }

    pub(super) fn pack(&self, stamp: Stamp) -> Vec<u8> {
        let mut bytes = header(stamp);
        bytes.extend_from_slice(&self.bytes);
        bytes
    }

    /// Reads the events in `bytes`, which [`pack`](Self::pack) made, and folds them into `state`.
    pub(super) fn unpack(
        bytes: &[u8],
        user: UserId,
        plan: &FeaturePlan,
        state: &mut UserState,
        what: &dyn Fn() -> String,
    ) -> Result<(Stamp, Self), RedisError> {
        let (stamp, mut rest) = split_header(bytes, what)?;
        let mut tail = Self { bytes: rest.to_vec(), ..Self::default() };
        let mut codes = Vec::new();
        while !rest.is_empty() {
            let event = tail.read_event(&mut rest, user, plan, &mut codes);
            let event = event.ok_or_else(|| {
                RedisError::Malformed(format!("{} is not a list of events", what()))
            })?;
            state.apply(&event, plan, |field| {
                let of_field = move |(other, _): &&(usize, u32)| *other == field;
                codes.iter().filter(of_field).map(|(_, code)| *code)
            });
            tail.n += 1;
        }
        Ok((stamp, tail))
    }

    fn read_event(
        &mut self,
        rest: &mut &[u8],
        user: UserId,
        plan: &FeaturePlan,
        codes: &mut Vec<(usize, u32)>,
    ) -> Option<Event> {
        let kind = *rest.split_off_first()?;
        self.time = self.time.wrapping_add(unzigzag(take_varint(rest)?));
        let item = u32::try_from(take_varint(rest)?).ok()?;
        let session = i64::from(self.session).checked_add(unzigzag(take_varint(rest)?))?;
        self.session = u32::try_from(session).ok()?;
        let mut numbers: EventNumbers = [f32::NAN; MAX_EVENT_NUMBERS];
        if kind & HAS_NUMBERS != 0 {
            let mask = *rest.split_off_first()?;
            for (i, number) in numbers.iter_mut().enumerate() {
                if mask >> i & 1 == 1 {
                    let bytes = rest.split_off(..4)?;
                    *number = f32::from_le_bytes(bytes.try_into().ok()?);
                }
            }
        }
        codes.clear();
        for (field, _) in &plan.user_fields {
            let mut push = |code: u64| {
                codes.push((*field, u32::try_from(code).ok()?));
                Some(())
            };
            match take_varint(rest)? {
                0 => {}
                1 => {
                    for _ in 0..take_varint(rest)? {
                        push(take_varint(rest)?)?;
                    }
                }
                one => push(one - 2)?,
            }
        }
        let kind = EventTypeId(kind & !HAS_NUMBERS);
        if usize::from(kind.0) >= plan.n_event_types() {
            return None;
        }
        let (time, item) = (Timestamp(self.time), ItemId(item));
        Some(Event { time, user, item, session: self.session, kind, numbers })
    }
}

/// A long history, folded: `version | zstd of the state in postcard`.
pub(super) fn pack_base(state: &UserState) -> Result<Vec<u8>, RedisError> {
    let malformed = |e: &dyn std::fmt::Display| RedisError::Malformed(e.to_string());
    let plain = postcard::to_stdvec(state).map_err(|e| malformed(&e))?;
    let mut bytes = vec![VERSION];
    bytes.extend(zstd::bulk::compress(&plain, ZSTD_LEVEL).map_err(|e| malformed(&e))?);
    Ok(bytes)
}

pub(super) fn unpack_base(
    bytes: &[u8],
    plan: &FeaturePlan,
    what: &dyn Fn() -> String,
) -> Result<UserState, RedisError> {
    let malformed = |reason: &str| RedisError::Malformed(format!("{} {reason}", what()));
    let compressed = match bytes.split_first() {
        Some((&VERSION, compressed)) => compressed,
        _ => return Err(malformed("has another version")),
    };
    let n = zstd::bulk::Decompressor::upper_bound(compressed).unwrap_or(MAX_BASE_BYTES);
    let plain = zstd::bulk::decompress(compressed, n.min(MAX_BASE_BYTES));
    let plain = plain.map_err(|_| malformed("cannot be unpacked"))?;
    let state: UserState =
        postcard::from_bytes(&plain).map_err(|_| malformed("holds no state of a user"))?;
    if state.fits(plan) { Ok(state) } else { Err(malformed("is of another plan")) }
}

fn zigzag(number: i64) -> u64 {
    (number << 1 ^ number >> 63) as u64
}

fn unzigzag(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}

fn push_varint(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn take_varint(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = *rest.split_off_first()?;
        number |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::NO_SESSION;
    use crate::record::{Slot, SlotOp};
    use crate::schema::Summed;
    use proptest::prelude::*;

    fn plan() -> FeaturePlan {
        let mut plan = FeaturePlan::with_event_types(3);
        plan.user.slot(Slot { event: None, op: SlotOp::Last });
        for op in [SlotOp::Last, SlotOp::Count { sum: Summed::Number(0) }] {
            plan.user_item.slot(Slot { event: None, op });
        }
        let mut layout = plan.user.clone();
        layout.slot(Slot { event: None, op: SlotOp::Count { sum: Summed::Events } });
        plan.user_fields = vec![(1, layout.clone()), (4, layout)];
        plan
    }

    fn noted() -> impl Strategy<Value = Noted> {
        let number = prop_oneof![Just(f32::NAN), -1e9f32..1e9];
        let codes =
            proptest::collection::vec((prop_oneof![Just(1u8), Just(4)], any::<u32>()), 0..4);
        let session = prop_oneof![Just(NO_SESSION), 0u32..1_000];
        let parts = (any::<i64>(), any::<u32>(), session, 0u8..3, number, codes);
        parts.prop_map(|(time, item, session, kind, number, codes)| {
            let mut numbers = [f32::NAN; MAX_EVENT_NUMBERS];
            numbers[0] = number;
            let (time, item, kind) = (Timestamp(time), ItemId(item), EventTypeId(kind));
            let event = Event { time, user: UserId(7), item, session, kind, numbers };
            Noted { stamp: 1, event, codes }
        })
    }

    fn what() -> String {
        "it".into()
    }

    fn bytes_of(state: &UserState) -> Vec<u8> {
        postcard::to_stdvec(state).unwrap()
    }

    proptest! {
        #[test]
        fn a_tail_folds_to_the_state_that_its_events_fold_to(
            events in proptest::collection::vec(noted(), 0..40),
        ) {
            let plan = plan();
            let (mut tail, mut state) = (Tail::default(), UserState::empty(&plan));
            for noted in &events {
                tail.push(noted, &plan);
                state.apply(&noted.event, &plan, |field| noted.codes_of(field));
            }
            let mut read = UserState::empty(&plan);
            let unpacked = Tail::unpack(&tail.pack(9), UserId(7), &plan, &mut read, &what);
            prop_assert_eq!(unpacked.unwrap(), (9, tail));
            prop_assert_eq!(bytes_of(&read), bytes_of(&state));
            let base = unpack_base(&pack_base(&state).unwrap(), &plan, &what).unwrap();
            prop_assert_eq!(bytes_of(&base), bytes_of(&state));
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let plan = plan();
            let mut state = UserState::empty(&plan);
            let mut with_header = header(3);
            with_header.extend(&bytes);
            for bytes in [&bytes, &with_header] {
                let _ = Tail::unpack(bytes, UserId(0), &plan, &mut state, &what);
                let _ = unpack_record(bytes, 4, &what);
                let mut base = vec![VERSION];
                base.extend(bytes);
                prop_assert!(unpack_base(&base, &plan, &what).is_err());
            }
        }
    }

    #[test]
    fn a_record_has_its_width() {
        let bytes = pack_record(5, &[1.0, f64::NAN]);
        let (stamp, record) = unpack_record(&bytes, 2, &what).unwrap();
        assert_eq!((stamp, record[0]), (5, 1.0));
        assert!(record[1].is_nan() && unpack_record(&bytes, 3, &what).is_err());
    }
}
