//! Objects: address_space of files, shared memory.

use crate::Env;
use core::marker::PhantomData;
use ptshare_paging::Pfn;

/// Why an object cannot give a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ObjectError {
    /// The page lies beyond the end of the object.
    BeyondEnd,
    /// No frame.
    NoMemory,
}

/// A file's (or shm segment's) pages.
pub struct Object<E: Env> {
    _env: PhantomData<E>,
}

impl<E: Env> Object<E> {
    /// The page-cache page at `index`, with a reference taken for the leaf about to be installed.
    pub fn map_page(&self, _index: u64) -> Result<Pfn, ObjectError> {
        Err(ObjectError::BeyondEnd)
    }

    /// Like [`Object::map_page`], but only if the page is in the cache already (fault-around).
    pub fn map_resident(&self, _index: u64) -> Option<Pfn> {
        None
    }
}
