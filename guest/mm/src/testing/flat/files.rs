//! Files: objects by index.

use super::FlatKernel;
use crate::hugetlb::HugeSize;
use crate::testing::Arena;
use crate::{Object, ObjectError, ObjectInfo, ObjectKind};
use ptshare_abi::Errno;
use std::sync::Arc;

/// As the system calls on files answer.
fn file_error(error: ObjectError) -> Errno {
    match error {
        ObjectError::BeyondEnd => Errno::EFBIG,
        ObjectError::NoMemory => Errno::ENOSPC,
    }
}

impl FlatKernel {
    /// A memfd of this length. Gives its index.
    pub fn memfd(&mut self, bytes: u64) -> usize {
        let info = ObjectInfo::new(1, self.files.len() as u64 + 1, format!("/memfd:{}", self.files.len()));
        let object = Object::new(self.arena.clone(), ObjectKind::Memfd, info);
        object.truncate(bytes).expect("a sensible length");
        self.add_file(object)
    }

    /// A memfd of huge pages, of this length in bytes. Gives its index.
    pub fn memfd_huge(&mut self, bytes: u64) -> usize {
        let info = ObjectInfo::new(7, self.files.len() as u64 + 1, format!("/memfd:{}", self.files.len()));
        self.add_file(Object::hugetlb(self.arena.clone(), HugeSize::Mib2, info, bytes, None))
    }

    /// Opens any object. Gives its index.
    pub fn add_file(&mut self, object: Arc<Object<Arena>>) -> usize {
        self.files.push(Some(object));
        self.files.len() - 1
    }

    /// The object of a file.
    ///
    /// # Panics
    /// If there is no such file, or it is closed.
    pub fn file(&self, file: usize) -> &Arc<Object<Arena>> {
        self.files.get(file).and_then(Option::as_ref).unwrap_or_else(|| panic!("there is no file {file}"))
    }

    /// close(2): mappings keep the object.
    pub fn close(&mut self, file: usize) {
        if let Some(place) = self.files.get_mut(file) {
            *place = None;
        }
    }

    /// ftruncate(2). A file of huge pages has a multiple of their size (EINVAL).
    pub fn ftruncate(&self, file: usize, bytes: u64) -> Result<(), Errno> {
        let object = self.file(file);
        if object.huge_size().is_some_and(|size| !size.is_aligned(bytes)) {
            return Err(Errno::EINVAL);
        }
        object.truncate(bytes).map_err(file_error)
    }

    /// fallocate(2) with FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE.
    pub fn punch_hole(&self, file: usize, offset: u64, len: u64) -> Result<(), Errno> {
        if len == 0 {
            return Err(Errno::EINVAL);
        }
        self.file(file).punch_hole(offset, len).map_err(file_error)
    }

    /// fallocate(2) with mode 0.
    pub fn fallocate(&self, file: usize, offset: u64, len: u64) -> Result<(), Errno> {
        if len == 0 {
            return Err(Errno::EINVAL);
        }
        self.file(file).allocate(offset, len, true).map_err(file_error)
    }

    /// pread(2) of a word; what lies beyond the end reads as 0.
    pub fn pread(&self, file: usize, offset: u64) -> u64 {
        let mut word = [0; 8];
        self.file(file).read_at(offset, &mut word);
        u64::from_le_bytes(word)
    }

    /// pwrite(2) of a word. A file of huge pages cannot be written to (EINVAL).
    pub fn pwrite(&self, file: usize, offset: u64, value: u64) -> Result<(), Errno> {
        let object = self.file(file);
        if object.is_huge() {
            return Err(Errno::EINVAL);
        }
        object.write_at(offset, &value.to_le_bytes()).map(|_| ()).map_err(file_error)
    }
}
