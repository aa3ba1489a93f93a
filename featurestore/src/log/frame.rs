//! How one record lies on disk: `length u32 | crc32 u32 | payload`, little-endian, the payload in postcard.
//!
//! The checksum covers the length too, so that a run of zeros, which file systems leave behind, is not a record.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};

use serde::Serialize;

use super::{ItemRecord, Record, UserRecord};
use crate::event::NamedEvent;
use crate::value::Fields;

/// Longest record, in bytes of its payload. A longer one is refused, and a longer length on disk is damage.
pub const MAX_RECORD_BYTES: usize = 1 << 20;

/// Bytes before the payload.
pub(super) const FRAME_HEADER_BYTES: usize = 8;

/// A [`Record`] whose parts are somewhere else. Its bytes are those of the record.
#[derive(Serialize)]
pub(super) enum RecordRef<'a> {
    Event(&'a NamedEvent),
    Item(&'a ItemRecord),
    User(&'a UserRecord),
    DeleteItem { id: &'a str },
    DeleteUser { id: &'a str },
    Followed { stamp: u64, n: u32 },
    MergeUser { from: &'a str, into: &'a str },
    SetItemFields { id: &'a str, fields: &'a Fields },
    SetUserFields { id: &'a str, fields: &'a Fields },
}

impl<'a> From<&'a Record> for RecordRef<'a> {
    fn from(record: &'a Record) -> Self {
        match record {
            Record::Event(event) => Self::Event(event),
            Record::Item(item) => Self::Item(item),
            Record::User(user) => Self::User(user),
            Record::DeleteItem { id } => Self::DeleteItem { id },
            Record::DeleteUser { id } => Self::DeleteUser { id },
            Record::Followed { stamp, n } => Self::Followed { stamp: *stamp, n: *n },
            Record::MergeUser { from, into } => Self::MergeUser { from, into },
            Record::SetItemFields { id, fields } => Self::SetItemFields { id, fields },
            Record::SetUserFields { id, fields } => Self::SetUserFields { id, fields },
        }
    }
}

impl<'a> RecordRef<'a> {
    /// The id that makes the record count once.
    pub(super) fn event_id(&self) -> Option<&'a str> {
        match self {
            Self::Event(event) => event.event_id.as_deref(),
            _ => None,
        }
    }
}

/// The frames of `records`, one behind the other.
///
/// # Errors
/// With the bytes of a record that is too long.
pub fn encode_records(records: &[Record]) -> Result<Vec<u8>, usize> {
    let mut bytes = Vec::new();
    for record in records {
        encode(&record.into(), &mut bytes).map_err(|too_long| too_long.0)?;
    }
    Ok(bytes)
}

/// Why bytes are not records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// They are not whole frames.
    #[error("these are not whole records")]
    Broken,
    /// They are, but of records that another version has written.
    #[error("these are records of a version that this program does not know")]
    Unknown,
}

/// The records of whole frames.
///
/// # Errors
/// If `bytes` are something else.
pub fn decode_records(mut bytes: &[u8]) -> Result<Vec<Record>, DecodeError> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let header = bytes.first_chunk().ok_or(DecodeError::Broken)?;
        let parsed = parse_header(*header, bytes.len() as u64);
        let (length, n, crc) = parsed.map_err(|_| DecodeError::Broken)?;
        let payload = &bytes[FRAME_HEADER_BYTES..][..n];
        if checksum(length, payload) != crc {
            return Err(DecodeError::Broken);
        }
        match postcard::take_from_bytes(payload) {
            Ok((record, [])) => records.push(record),
            _ => return Err(DecodeError::Unknown),
        }
        bytes = &bytes[FRAME_HEADER_BYTES + n..];
    }
    Ok(records)
}

/// A record that does not fit into a frame: it has this many bytes.
pub(super) struct TooLong(pub(super) usize);

/// Appends the frame of `record` to `bytes`, or leaves them as they are.
pub(super) fn encode(record: &RecordRef, bytes: &mut Vec<u8>) -> Result<(), TooLong> {
    let start = bytes.len();
    bytes.extend_from_slice(&[0; FRAME_HEADER_BYTES]);
    postcard::to_io(record, &mut *bytes).expect("a record in memory can be written to memory");
    let length = bytes.len() - start - FRAME_HEADER_BYTES;
    if length > MAX_RECORD_BYTES {
        bytes.truncate(start);
        return Err(TooLong(length));
    }
    let (header, payload) = bytes[start..].split_at_mut(FRAME_HEADER_BYTES);
    let length = (length as u32).to_le_bytes();
    header[..4].copy_from_slice(&length);
    header[4..].copy_from_slice(&checksum(length, payload).to_le_bytes());
    Ok(())
}

fn checksum(length: [u8; 4], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&length);
    hasher.update(payload);
    hasher.finalize()
}

/// What is wrong with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    Length(u32),
    Incomplete,
    Checksum,
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Length(length) => write!(f, "a record cannot have {length} bytes"),
            Self::Incomplete => f.write_str("the record is incomplete"),
            Self::Checksum => f.write_str("the record's checksum does not match"),
        }
    }
}

/// Length and checksum of the frame that starts with `header`, if `available` bytes can hold it.
fn parse_header(
    header: [u8; FRAME_HEADER_BYTES],
    available: u64,
) -> Result<([u8; 4], usize, u32), Broken> {
    let [a, b, c, d, e, f, g, h] = header;
    let length = u32::from_le_bytes([a, b, c, d]);
    if length == 0 || length as usize > MAX_RECORD_BYTES {
        return Err(Broken::Length(length));
    }
    if u64::from(length) + FRAME_HEADER_BYTES as u64 > available {
        return Err(Broken::Incomplete);
    }
    Ok(([a, b, c, d], length as usize, u32::from_le_bytes([e, f, g, h])))
}

/// Whether a whole frame starts at the first byte of `bytes`.
fn starts_with_frame(bytes: &[u8]) -> bool {
    let Some(header) = bytes.first_chunk() else { return false };
    let Ok((length, n, crc)) = parse_header(*header, bytes.len() as u64) else { return false };
    checksum(length, &bytes[FRAME_HEADER_BYTES..][..n]) == crc
}

/// What a reader found.
pub(super) enum Step {
    /// A record; its payload is in the buffer.
    Record,
    /// The end of the segment, cleanly after a record.
    End,
    /// Something that is not a record.
    Broken(Broken),
}

/// Reads the frames of one segment.
pub(super) struct Frames {
    file: BufReader<File>,
    /// Where the next frame starts.
    offset: u64,
    /// Up to where the file is read.
    end: u64,
}

impl Frames {
    /// Reads `file` from `offset` to `end`, both in bytes from its start.
    pub(super) fn new(mut file: File, offset: u64, end: u64) -> io::Result<Self> {
        file.seek(SeekFrom::Start(offset))?;
        Ok(Self { file: BufReader::with_capacity(1 << 18, file), offset, end })
    }

    /// Reads the next frame's payload into `payload`.
    pub(super) fn next(&mut self, payload: &mut Vec<u8>) -> io::Result<Step> {
        let available = self.end.saturating_sub(self.offset);
        if available == 0 {
            return Ok(Step::End);
        }
        if available < FRAME_HEADER_BYTES as u64 {
            return Ok(Step::Broken(Broken::Incomplete));
        }
        let mut header = [0; FRAME_HEADER_BYTES];
        self.file.read_exact(&mut header)?;
        let (length, n, crc) = match parse_header(header, available) {
            Ok(header) => header,
            Err(broken) => return Ok(Step::Broken(broken)),
        };
        payload.resize(n, 0);
        self.file.read_exact(payload)?;
        if checksum(length, payload) != crc {
            return Ok(Step::Broken(Broken::Checksum));
        }
        self.offset += (FRAME_HEADER_BYTES + n) as u64;
        Ok(Step::Record)
    }

    /// Where the next frame starts: the end of the last one that was read.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Up to where the file is read.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Whether the file has grown since; if so, it is read up to its new end.
    pub(super) fn extend_to_growth(&mut self) -> io::Result<bool> {
        let length = self.file.get_ref().metadata()?.len();
        let has_grown = length > self.end;
        self.end = self.end.max(length);
        Ok(has_grown)
    }

    /// Whether a whole frame starts anywhere after the next one's start. Cost: reads the rest of the segment, in windows.
    pub(super) fn has_later_frame(&mut self) -> io::Result<bool> {
        const WINDOW: u64 = 4 << 20;
        let longest = (MAX_RECORD_BYTES + FRAME_HEADER_BYTES) as u64;
        let mut window = Vec::new();
        let mut start = self.offset + 1;
        while start < self.end {
            let n = (WINDOW + longest).min(self.end - start);
            window.resize(n as usize, 0);
            self.file.seek(SeekFrom::Start(start))?;
            self.file.read_exact(&mut window)?;
            if (0..n.min(WINDOW) as usize).any(|i| starts_with_frame(&window[i..])) {
                return Ok(true);
            }
            start += n.min(WINDOW);
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::Value;

    #[test]
    fn borrowed_and_owned_records_have_the_same_bytes() {
        let records = [
            Record::Event(NamedEvent { item: "a".into(), ..NamedEvent::default() }),
            Record::Item(ItemRecord { id: "a".into(), ..ItemRecord::default() }),
            Record::User(UserRecord { id: "u".into(), ..UserRecord::default() }),
            Record::DeleteItem { id: "a".into() },
            Record::DeleteUser { id: "u".into() },
            Record::MergeUser { from: "\0s".into(), into: "u".into() },
            Record::SetItemFields { id: "a".into(), fields: [("b".into(), Value::Null)].into() },
            Record::SetUserFields { id: "u".into(), fields: Fields::new() },
        ];
        for record in &records {
            let mut bytes = Vec::new();
            assert!(encode(&record.into(), &mut bytes).is_ok());
            assert_eq!(bytes[FRAME_HEADER_BYTES..], postcard::to_stdvec(record).unwrap());
            assert!(starts_with_frame(&bytes));
        }
    }

    #[test]
    fn zeros_are_not_a_frame() {
        assert!(!starts_with_frame(&[0; 64]));
    }

    #[test]
    fn a_record_that_is_too_long_leaves_no_bytes() {
        let id = "x".repeat(MAX_RECORD_BYTES).into();
        let mut bytes = vec![7];
        assert!(encode(&(&Record::DeleteItem { id }).into(), &mut bytes).is_err());
        assert_eq!(bytes, [7]);
    }
}
