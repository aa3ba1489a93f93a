//! Files that may be compressed, told by their first bytes.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::bufread::MultiGzDecoder;

use super::ReadError;

/// The decompressed content of a file.
pub(super) type Input = Box<dyn BufRead + Send>;

const BUFFER_BYTES: usize = 1 << 18;
const LONGEST_MAGIC: u64 = 4;

/// Opens `path`, behind a decoder if it is compressed.
pub(super) fn open(path: &Path) -> Result<Input, ReadError> {
    decoded(path).map_err(|source| ReadError::Read { path: path.into(), source })
}

fn decoded(path: &Path) -> io::Result<Input> {
    let (file, magic) = open_peeking(path)?;
    let file = BufReader::with_capacity(BUFFER_BYTES, file);
    Ok(match magic[..] {
        [0x1F, 0x8B, ..] => {
            Box::new(BufReader::with_capacity(BUFFER_BYTES, MultiGzDecoder::new(file)))
        }
        [0x28, 0xB5, 0x2F, 0xFD] => {
            let decoder = zstd::Decoder::with_buffer(file)?;
            Box::new(BufReader::with_capacity(BUFFER_BYTES, decoder))
        }
        _ => Box::new(file),
    })
}

/// `path` as a file that can be read at any place, which Parquet needs: itself, or if it is compressed, a temporary file with its
/// content that has no name any more.
pub(super) fn plain_file(path: &Path) -> io::Result<File> {
    let (file, magic) = open_peeking(path)?;
    if magic == *b"PAR1" {
        return Ok(file);
    }
    static N_FILES: AtomicU64 = AtomicU64::new(0);
    let number = N_FILES.fetch_add(1, Ordering::Relaxed);
    let name = format!("cascade-{}-{number}.parquet", std::process::id());
    let temporary = std::env::temp_dir().join(name);
    let mut plain = OpenOptions::new().read(true).write(true).create_new(true).open(&temporary)?;
    std::fs::remove_file(&temporary)?;
    io::copy(&mut decoded(path)?, &mut plain)?;
    plain.rewind()?;
    Ok(plain)
}

/// Opens `path`, and reads the bytes by which compressed files are told.
fn open_peeking(path: &Path) -> io::Result<(File, Vec<u8>)> {
    let mut file = File::open(path)?;
    let mut magic = Vec::new();
    file.by_ref().take(LONGEST_MAGIC).read_to_end(&mut magic)?;
    file.rewind()?;
    Ok((file, magic))
}
