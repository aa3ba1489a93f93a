//! An immutable file of typed arrays, opened by memory map: what indexes and models of a release are kept in.
//!
//! ```text
//! 0   magic "CASC" | format version u32 | kind [u8; 8] | n_sections u32 | zero u32 | FNV-1a of the rest u64
//! 32  n_sections x (offset u64, len u64), in bytes
//!     sections, each starting at a multiple of 64, zeros between them; the last one ends the file
//! ```
//!
//! Everything is little-endian. Opening checks the structure, in O(n_sections); what the arrays mean is checked by whoever
//! reads them, and their bytes by the checksums of the release's manifest.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytemuck::AnyBitPattern;
use memmap2::Mmap;

const MAGIC: &[u8; 4] = b"CASC";
const FORMAT_VERSION: u32 = 1;
const HEADER_BYTES: usize = 32;
const ENTRY_BYTES: usize = 16;
/// Where the checksum stands in the header.
const CHECKSUM_AT: usize = 24;
/// A cache line: an array of any type is aligned in it, and rows of 64 bytes never straddle two lines.
const ALIGNMENT: usize = 64;

/// Why a file of arrays cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file cannot be opened or mapped.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file is not what it should be.
    #[error("{} is damaged or of another kind: {flaw}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        flaw: Flaw,
    },
}

/// What is wrong with a file of arrays.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// This machine stores the most significant byte first.
    #[error("it can only be mapped on a little-endian machine")]
    BigEndian,
    /// The file ends before its header does.
    #[error("it has {n_bytes} bytes, too few for its header")]
    TooShort {
        /// Length of the file.
        n_bytes: usize,
    },
    /// It does not start with the magic bytes.
    #[error("it does not start with CASC")]
    Magic,
    /// It was written by another version of Cascade.
    #[error("its format version is {found}, but this program reads {FORMAT_VERSION}")]
    Version {
        /// The version in the file.
        found: u32,
    },
    /// It holds something else.
    #[error("its kind is {found:?}, but {expected:?} was expected")]
    Kind {
        /// The kind in the file.
        found: String,
        /// The kind asked for.
        expected: String,
    },
    /// It has another number of sections.
    #[error("it has {found} sections, but {expected} were expected")]
    SectionCount {
        /// The number in the file.
        found: u32,
        /// The number asked for.
        expected: usize,
    },
    /// The header's checksum is not that of its bytes.
    #[error("the checksum of its header is wrong")]
    HeaderChecksum,
    /// A section is misaligned or out of bounds, or its length is not a whole number of elements.
    #[error("section {index} is out of bounds or not made of elements of {element_bytes} bytes")]
    Section {
        /// Position of the section.
        index: usize,
        /// Bytes of one element.
        element_bytes: usize,
    },
    /// The arrays are well-formed, but contradict each other.
    #[error("{0}")]
    Content(String),
}

/// An open file of typed arrays. The file must not change while it is open: a release is never written to.
#[derive(Debug)]
pub struct Mapped {
    path: PathBuf,
    bytes: Mmap,
    n_sections: usize,
}

impl Mapped {
    /// Opens the file at `path`, which must be of this `kind` and have `n_sections`. Cost: O(n_sections).
    ///
    /// # Errors
    /// If it cannot be read, is of another kind or version, or if its header is damaged or does not fit its length.
    pub fn open(path: &Path, kind: &[u8; 8], n_sections: usize) -> Result<Self, OpenError> {
        let read_error = |source| OpenError::Read { path: path.to_owned(), source };
        let file = File::open(path).map_err(read_error)?;
        // SAFETY: the files of a release are written once, aside, and never changed; see the type's doc.
        let bytes = unsafe { Mmap::map(&file) }.map_err(read_error)?;
        match check_header(&bytes, kind, n_sections) {
            Ok(()) => Ok(Self { path: path.to_owned(), bytes, n_sections }),
            Err(flaw) => Err(OpenError::Malformed { path: path.to_owned(), flaw }),
        }
    }

    /// Section `index` as `u32`s.
    ///
    /// # Errors
    /// If there is no such section, or if its length is not a multiple of 4 bytes.
    pub fn u32s(&self, index: usize) -> Result<&[u32], OpenError> {
        self.elements(index)
    }

    /// Section `index` as `f32`s, which may be NaN.
    ///
    /// # Errors
    /// If there is no such section, or if its length is not a multiple of 4 bytes.
    pub fn f32s(&self, index: usize) -> Result<&[f32], OpenError> {
        self.elements(index)
    }

    /// Section `index` as `u64`s.
    ///
    /// # Errors
    /// If there is no such section, or if its length is not a multiple of 8 bytes.
    pub fn u64s(&self, index: usize) -> Result<&[u64], OpenError> {
        self.elements(index)
    }

    /// The error that says that the arrays of this file contradict each other.
    pub fn contradiction(&self, what: impl Into<String>) -> OpenError {
        self.malformed(Flaw::Content(what.into()))
    }

    fn elements<T: AnyBitPattern>(&self, index: usize) -> Result<&[T], OpenError> {
        let section = (index < self.n_sections).then(|| section_range(&self.bytes, index));
        section
            .and_then(|range| bytemuck::try_cast_slice(&self.bytes[range]).ok())
            .ok_or_else(|| self.malformed(Flaw::Section { index, element_bytes: size_of::<T>() }))
    }

    fn malformed(&self, flaw: Flaw) -> OpenError {
        OpenError::Malformed { path: self.path.clone(), flaw }
    }
}

/// An array that was just made, or that lies in an open file. A clone shares it.
#[derive(Clone, Debug)]
pub enum Array<T> {
    /// In memory.
    Owned(Arc<Vec<T>>),
    /// In a file: made by `Array::mapped`.
    Mapped {
        /// The file.
        file: Arc<Mapped>,
        /// Position of the section, which was found to be made of `T`.
        index: usize,
    },
}

impl<T: AnyBitPattern> Array<T> {
    /// `elements`, in memory.
    pub fn owned(elements: Vec<T>) -> Self {
        Self::Owned(Arc::new(elements))
    }

    /// Section `index` of `file`.
    ///
    /// # Errors
    /// If there is no such section, or if it is not made of `T`.
    pub fn mapped(file: &Arc<Mapped>, index: usize) -> Result<Self, OpenError> {
        file.elements::<T>(index)?;
        Ok(Self::Mapped { file: Arc::clone(file), index })
    }

    /// The elements. Cost: a few nanoseconds, so loops take the slice once.
    pub fn as_slice(&self) -> &[T] {
        match self {
            Self::Owned(elements) => elements,
            Self::Mapped { file, index } => {
                file.elements(*index).expect("the section was checked when the array was made")
            }
        }
    }
}

/// Writes `sections` as a file of this `kind`, and waits until it is on the disk.
/// Arrays become bytes by `bytemuck::cast_slice`.
///
/// # Errors
/// If the file cannot be written, or if this machine is big-endian.
pub fn write_sections(path: &Path, kind: &[u8; 8], sections: &[&[u8]]) -> io::Result<()> {
    if cfg!(target_endian = "big") {
        return Err(io::Error::new(io::ErrorKind::Unsupported, Flaw::BigEndian));
    }
    let header = header_of(kind, sections);
    let mut file = BufWriter::new(File::create(path)?);
    file.write_all(&header)?;
    let mut written = header.len();
    for section in sections {
        file.write_all(&[0; ALIGNMENT][..written.next_multiple_of(ALIGNMENT) - written])?;
        file.write_all(section)?;
        written = written.next_multiple_of(ALIGNMENT) + section.len();
    }
    file.into_inner()?.sync_all()
}

/// The header and the table of `sections`, with its checksum.
fn header_of(kind: &[u8; 8], sections: &[&[u8]]) -> Vec<u8> {
    let n_sections = u32::try_from(sections.len()).expect("a file has a handful of sections");
    let mut header = Vec::with_capacity(header_bytes(sections.len()));
    header.extend(MAGIC);
    header.extend(FORMAT_VERSION.to_le_bytes());
    header.extend(kind);
    header.extend(n_sections.to_le_bytes());
    header.extend([0; 4 + 8]);
    let mut end = header_bytes(sections.len());
    for section in sections {
        let offset = end.next_multiple_of(ALIGNMENT);
        end = offset + section.len();
        header.extend((offset as u64).to_le_bytes());
        header.extend((section.len() as u64).to_le_bytes());
    }
    let checksum = header_checksum(&header);
    header[CHECKSUM_AT..HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
    header
}

/// Whether `bytes` are a file of this `kind` whose sections lie one after the other and end with it.
fn check_header(bytes: &[u8], kind: &[u8; 8], n_sections: usize) -> Result<(), Flaw> {
    if cfg!(target_endian = "big") {
        return Err(Flaw::BigEndian);
    }
    if bytes.len() < HEADER_BYTES {
        return Err(Flaw::TooShort { n_bytes: bytes.len() });
    }
    if &bytes[..4] != MAGIC {
        return Err(Flaw::Magic);
    }
    let version = u32_at(bytes, 4);
    if version != FORMAT_VERSION {
        return Err(Flaw::Version { found: version });
    }
    if &bytes[8..16] != kind {
        let text = |kind: &[u8]| String::from_utf8_lossy(kind).into_owned();
        return Err(Flaw::Kind { found: text(&bytes[8..16]), expected: text(kind) });
    }
    let found = u32_at(bytes, 16);
    if found as usize != n_sections {
        return Err(Flaw::SectionCount { found, expected: n_sections });
    }
    let header =
        bytes.get(..header_bytes(n_sections)).ok_or(Flaw::TooShort { n_bytes: bytes.len() })?;
    if header_checksum(header) != u64_at(header, CHECKSUM_AT) {
        return Err(Flaw::HeaderChecksum);
    }
    check_sections(bytes, n_sections)
}

/// Whether the sections of a header that was found intact are where they belong, and end the file.
fn check_sections(bytes: &[u8], n_sections: usize) -> Result<(), Flaw> {
    let mut end = header_bytes(n_sections);
    for index in 0..n_sections {
        let flaw = Flaw::Section { index, element_bytes: 1 };
        let entry = HEADER_BYTES + index * ENTRY_BYTES;
        let (offset, len) = (u64_at(bytes, entry), u64_at(bytes, entry + 8));
        let remaining = (bytes.len() as u64).checked_sub(offset);
        if offset != end.next_multiple_of(ALIGNMENT) as u64 || remaining.is_none_or(|n| n < len) {
            return Err(flaw);
        }
        end = (offset + len) as usize;
    }
    if end == bytes.len() {
        Ok(())
    } else {
        Err(Flaw::Content("it is longer than its sections".to_owned()))
    }
}

/// Where section `index` of a file with a valid header lies.
fn section_range(bytes: &[u8], index: usize) -> std::ops::Range<usize> {
    let entry = HEADER_BYTES + index * ENTRY_BYTES;
    let offset = u64_at(bytes, entry) as usize;
    offset..offset + u64_at(bytes, entry + 8) as usize
}

const fn header_bytes(n_sections: usize) -> usize {
    HEADER_BYTES + n_sections * ENTRY_BYTES
}

/// FNV-1a, 64 bits, of all of the header but the checksum itself.
fn header_checksum(header: &[u8]) -> u64 {
    let covered = header[..CHECKSUM_AT].iter().chain(&header[HEADER_BYTES..]);
    covered.fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KIND: &[u8; 8] = b"testkind";

    fn written(sections: &[&[u8]]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("arrays");
        write_sections(&path, KIND, sections).unwrap();
        (folder, path)
    }

    #[test]
    fn sections_are_read_back_aligned() {
        let (floats, ids) = ([1.5f32, f32::NAN], [7u32, 8, 9]);
        let (_folder, path) = written(&[
            bytemuck::cast_slice(&floats),
            &[],
            bytemuck::cast_slice(&ids),
            &7u64.to_le_bytes(),
        ]);
        let file = Mapped::open(&path, KIND, 4).unwrap();
        assert_eq!(file.f32s(0).unwrap()[0], 1.5);
        assert!(file.u64s(1).unwrap().is_empty());
        assert_eq!(file.u32s(2).unwrap(), ids);
        assert_eq!(file.u32s(2).unwrap().as_ptr() as usize % ALIGNMENT, 0);
        assert_eq!(file.u64s(3).unwrap(), [7]);
        assert!(file.u64s(2).is_err(), "12 bytes are not made of u64s");
        assert!(file.u32s(4).is_err());
    }

    #[test]
    fn another_kind_or_number_of_sections_is_refused() {
        let (_folder, path) = written(&[&[1, 2, 3]]);
        let flaw = |error| match error {
            OpenError::Malformed { flaw, .. } => flaw,
            OpenError::Read { source, .. } => panic!("{source}"),
        };
        let other = Mapped::open(&path, b"otherone", 1).unwrap_err();
        assert_eq!(
            flaw(other),
            Flaw::Kind { found: "testkind".into(), expected: "otherone".into() }
        );
        assert_eq!(
            flaw(Mapped::open(&path, KIND, 2).unwrap_err()),
            Flaw::SectionCount { found: 1, expected: 2 }
        );
    }

    proptest! {
        #[test]
        fn a_damaged_header_is_refused(at in 0usize..64, flip in 1u8..) {
            let (_folder, path) = written(&[&[1; 100], &[2; 30]]);
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[at] ^= flip;
            std::fs::write(&path, bytes).unwrap();
            prop_assert!(Mapped::open(&path, KIND, 2).is_err());
        }

        #[test]
        fn a_file_of_another_length_is_refused(n_bytes in 0usize..300) {
            let (_folder, path) = written(&[&[1; 100], &[2; 30]]);
            let mut bytes = std::fs::read(&path).unwrap();
            prop_assume!(n_bytes != bytes.len());
            bytes.resize(n_bytes, 0);
            std::fs::write(&path, bytes).unwrap();
            prop_assert!(Mapped::open(&path, KIND, 2).is_err());
        }
    }
}
