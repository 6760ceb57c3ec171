//! Writes cpio archives in the "newc" format, the one that kernels take as initramfs.
//!
//! Format: `Documentation/driver-api/early-userspace/buffer-format.rst` of Linux. Every entry is a header of 110 ASCII
//! bytes, the name with its NUL padded to 4 bytes, and the data padded to 4 bytes; the entry `TRAILER!!!` ends it.

use std::collections::BTreeSet;

const DIRECTORY: u32 = 0o040000;
const REGULAR: u32 = 0o100000;
const SYMLINK: u32 = 0o120000;

/// An archive under construction. Parent directories are added by themselves; adding a path again is an error of the
/// caller that the guest resolves in favour of the last.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    directories: BTreeSet<String>,
    next_inode: u32,
}

impl Archive {
    /// An empty archive.
    pub fn new() -> Self {
        Archive::default()
    }

    /// Adds a directory and its parents. `path` is absolute; `mode` holds the permission bits.
    pub fn directory(&mut self, path: &str, mode: u32) {
        self.parents(path);
        if self.directories.insert(name_of(path).to_owned()) && !name_of(path).is_empty() {
            self.entry(path, DIRECTORY | mode, 2, &[]);
        }
    }

    /// Adds a regular file. `path` is absolute; `mode` holds the permission bits.
    pub fn file(&mut self, path: &str, mode: u32, data: &[u8]) {
        self.parents(path);
        self.entry(path, REGULAR | mode, 1, data);
    }

    /// Adds a symbolic link.
    pub fn symlink(&mut self, path: &str, target: &str) {
        self.parents(path);
        self.entry(path, SYMLINK | 0o777, 1, target.as_bytes());
    }

    /// The finished archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.next_inode = 0;
        self.entry("TRAILER!!!", 0, 1, &[]);
        self.bytes
    }

    fn parents(&mut self, path: &str) {
        let name = name_of(path).to_owned();
        for (at, _) in name.match_indices('/') {
            let parent = &name[..at];
            if self.directories.insert(parent.to_owned()) {
                self.entry(parent, DIRECTORY | 0o755, 2, &[]);
            }
        }
    }

    fn entry(&mut self, path: &str, mode: u32, links: u32, data: &[u8]) {
        let name = name_of(path);
        let size = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let name_size = u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
        // ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
        let fields = [self.next_inode, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name_size, 0];
        self.next_inode += 1;
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(data);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

fn name_of(path: &str) -> &str {
    path.trim_start_matches('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_names_and_data_are_aligned_and_parents_come_first() {
        let mut archive = Archive::new();
        archive.file("/etc/ptshare/cwd", 0o644, b"/");
        archive.symlink("/bin", "usr/bin");
        let bytes = archive.finish();
        let mut names = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            assert_eq!(&bytes[at..at + 6], b"070701");
            let field = |i: usize| {
                let text = std::str::from_utf8(&bytes[at + 6 + 8 * i..at + 14 + 8 * i]).unwrap();
                u32::from_str_radix(text, 16).unwrap() as usize
            };
            let (mode, size, name_size) = (field(1), field(6), field(11));
            let name = &bytes[at + 110..at + 110 + name_size - 1];
            let data_at = (at + 110 + name_size).next_multiple_of(4);
            names.push((
                String::from_utf8(name.to_vec()).unwrap(),
                mode,
                bytes[data_at..data_at + size].to_vec(),
            ));
            at = (data_at + size).next_multiple_of(4);
        }
        let expected = [
            ("etc", 0o040755, ""),
            ("etc/ptshare", 0o040755, ""),
            ("etc/ptshare/cwd", 0o100644, "/"),
            ("bin", 0o120777, "usr/bin"),
            ("TRAILER!!!", 0, ""),
        ];
        assert_eq!(names.len(), expected.len());
        for (got, want) in names.iter().zip(expected) {
            assert_eq!((got.0.as_str(), got.1, got.2.as_slice()), (want.0, want.1, want.2.as_bytes()));
        }
    }

    #[test]
    fn other_tools_read_the_archive() {
        let mut archive = Archive::new();
        archive.directory("/tmp", 0o1777);
        archive.file("/hello", 0o755, b"hello\n");
        let path = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(path.path(), archive.finish()).unwrap();
        let listing = std::process::Command::new("cpio")
            .args(["-it", "--quiet"])
            .stdin(path.reopen().unwrap())
            .output();
        match listing {
            Ok(output) => assert_eq!(String::from_utf8_lossy(&output.stdout), "tmp\nhello\n"),
            Err(error) => eprintln!("SKIP: cpio cannot be run ({error}); Debian's package is `cpio`"),
        }
    }
}
