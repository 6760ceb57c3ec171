//! The `newc` archive format, as an initramfs uses it (Linux Documentation/driver-api/early-userspace/buffer-format.rst).
//! Pure: works on a byte slice, allocates nothing, never panics.
//!
//! A record is a 110-byte header of `070701` and thirteen 8-digit hexadecimal fields, the NUL-terminated name padded so
//! that the data begin at a multiple of 4, and the data, padded likewise. A record named `TRAILER!!!` ends the archive.

/// Bytes of a header.
const HEADER: usize = 110;
/// Longest name accepted, with its NUL.
const NAME_LIMIT: u32 = 4096;

/// One record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record<'a> {
    /// Path without its NUL, as written (perhaps with a leading `/` or `./`).
    pub name: &'a [u8],
    /// Inode number of a file with several links (equal numbers are hard links), else 0.
    pub ino: u32,
    /// `st_mode`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Number of links.
    pub nlink: u32,
    /// Seconds since 1970.
    pub mtime: u32,
    /// Device number of a device node: major, minor.
    pub rdev: (u32, u32),
    /// Offset of the data in the archive, bytes.
    pub data_at: usize,
    /// The data.
    pub data: &'a [u8],
}

/// Why an archive ends before its trailer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Malformed {
    /// The magic number is not `070701` or `070702`.
    Magic,
    /// A field has a character that is no hexadecimal digit.
    Digit,
    /// A name is empty, too long, or not terminated.
    Name,
    /// A record runs over the end of the archive.
    Short,
}

/// Eight hexadecimal digits at once, one in each byte of a word: the kernel's own instructions are dear, and an archive
/// has eight such fields a record.
#[inline]
fn hex8(text: &[u8; 8]) -> Option<u32> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const LOW: u64 = 0x0f * ONES;
    const CARRY: u64 = 0x10 * ONES;
    let raw = u64::from_be_bytes(*text);
    let letter = (raw >> 6) & ONES;
    // Upper-case letters become lower-case ones.
    let v = raw | (0x20 * letter);
    let low = v & LOW;
    // High nibble 3 for a digit, 6 for a letter; low nibble 0..=9 or 1..=6.
    let high_right = (v >> 4) & LOW == 3 * ONES + 3 * letter;
    let low_right = (low + 6 * ONES + 3 * letter) & CARRY == 0;
    let letter_right = ((low + 0x0f * letter) >> 4) & ONES == letter;
    if !(high_right && low_right && letter_right) {
        return None;
    }
    let digits = low + 9 * letter;
    let pairs = (digits | (digits >> 4)) & 0x00ff_00ff_00ff_00ff;
    let quads = (pairs | (pairs >> 8)) & 0x0000_ffff_0000_ffff;
    Some((quads | (quads >> 16)) as u32)
}

/// A reader of records: an iterator that ends at the trailer, at the end of the archive, or after an error.
pub struct Archive<'a> {
    bytes: &'a [u8],
    at: usize,
    over: bool,
}

impl<'a> Archive<'a> {
    /// A reader at the start of `bytes`.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Archive { bytes, at: 0, over: false }
    }

    /// Offset of the next record, bytes.
    pub fn position(&self) -> usize {
        self.at
    }

    fn record(&mut self) -> Result<Option<Record<'a>>, Malformed> {
        let bytes = self.bytes;
        let Some(head) = bytes.get(self.at..self.at.saturating_add(HEADER)) else {
            // Trailing padding, or nothing at all, ends an archive that has no trailer.
            return if bytes[self.at.min(bytes.len())..].iter().all(|b| *b == 0) {
                Ok(None)
            } else {
                Err(Malformed::Short)
            };
        };
        // A fixed length, so that nothing below needs a test of bounds.
        let head: &[u8; HEADER] = head.try_into().map_err(|_| Malformed::Short)?;
        let magic = [head[0], head[1], head[2], head[3], head[4], head[5]];
        if magic != *b"070701" && magic != *b"070702" {
            return Err(Malformed::Magic);
        }
        let field = |n: usize| {
            let text = head[6..].as_chunks::<8>().0.get(n);
            text.and_then(hex8).ok_or(Malformed::Digit)
        };
        let name_size = field(11)?;
        let data_size = field(6)? as usize;
        if name_size == 0 || name_size > NAME_LIMIT {
            return Err(Malformed::Name);
        }
        let name_at = self.at + HEADER;
        let name_end = name_at + name_size as usize;
        let name = bytes.get(name_at..name_end).ok_or(Malformed::Short)?;
        let Some((0, name)) = name.split_last() else { return Err(Malformed::Name) };
        if name == b"TRAILER!!!" {
            return Ok(None);
        }
        let data_at = name_end.next_multiple_of(4);
        let data_end = data_at.checked_add(data_size).ok_or(Malformed::Short)?;
        let data = bytes.get(data_at..data_end).ok_or(Malformed::Short)?;
        self.at = data_end.next_multiple_of(4);
        let mode = field(1)?;
        let nlink = field(4)?;
        let node = matches!(mode & 0o170_000, 0o020_000 | 0o060_000);
        Ok(Some(Record {
            name,
            ino: if nlink > 1 { field(0)? } else { 0 },
            mode,
            uid: field(2)?,
            gid: field(3)?,
            nlink,
            mtime: field(5)?,
            rdev: if node { (field(9)?, field(10)?) } else { (0, 0) },
            data_at,
            data,
        }))
    }
}

impl<'a> Iterator for Archive<'a> {
    type Item = Result<Record<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        let record = self.record();
        self.over = !matches!(record, Ok(Some(_)));
        record.transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use alloc::vec::Vec;

    fn record(out: &mut Vec<u8>, name: &str, mode: u32, data: &[u8]) {
        let fields = [7, mode, 1, 2, 1, 99, data.len() as u32, 0, 0, 4, 5, name.len() as u32 + 1, 0];
        out.extend_from_slice(b"070701");
        for field in fields {
            out.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        out.extend_from_slice(name.as_bytes());
        out.push(0);
        out.resize(out.len().next_multiple_of(4), 0);
        out.extend_from_slice(data);
        out.resize(out.len().next_multiple_of(4), 0);
    }

    fn archive() -> Vec<u8> {
        let mut out = Vec::new();
        record(&mut out, "dir", 0o040_755, b"");
        record(&mut out, "dir/file", 0o100_644, b"hello");
        record(&mut out, "dev", 0o020_600, b"");
        record(&mut out, "TRAILER!!!", 0, b"");
        out
    }

    #[test]
    fn eight_digits_read_as_the_standard_library_reads_them() {
        for value in [0u32, 1, 9, 10, 0xabcd_ef01, u32::MAX, 0x1234_5678] {
            for text in [format!("{value:08x}"), format!("{value:08X}")] {
                assert_eq!(hex8(text.as_bytes().try_into().unwrap()), Some(value));
            }
        }
        for byte in 0..=255u8 {
            for at in 0..8 {
                let mut text = *b"00000000";
                text[at] = byte;
                assert_eq!(hex8(&text).is_some(), byte.is_ascii_hexdigit(), "byte {byte:#x} at {at}");
            }
        }
    }

    #[test]
    fn an_archive_gives_its_records() {
        let bytes = archive();
        let records: Vec<_> = Archive::new(&bytes).map(|r| r.unwrap()).collect();
        assert_eq!(records.len(), 3);
        assert_eq!((records[1].name, records[1].data), (&b"dir/file"[..], &b"hello"[..]));
        assert_eq!(&bytes[records[1].data_at..][..5], b"hello");
        assert_eq!((records[0].mode, records[2].rdev, records[1].rdev), (0o040_755, (4, 5), (0, 0)));
    }

    #[test]
    fn whatever_is_cut_or_overwritten_never_panics() {
        let good = archive();
        for cut in 0..good.len() {
            let _ = Archive::new(&good[..cut]).count();
        }
        for at in 0..good.len() {
            for byte in [0, b'f', b'9', 0xff] {
                let mut bad = good.clone();
                bad[at] = byte;
                let _ = Archive::new(&bad).count();
            }
        }
    }
}
