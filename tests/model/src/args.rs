//! Linux's numbers for the calls of mappings, as wide as the core takes them.

use ptshare_abi::sys::general as abi;

macro_rules! numbers {
    ($($name:ident)*) => {
        $(
            #[allow(missing_docs, reason = "mman.h's own names")]
            pub const $name: u64 = abi::$name as u64;
        )*
    };
}

numbers! {
    PROT_READ PROT_WRITE
    MAP_SHARED MAP_PRIVATE MAP_FIXED MAP_ANONYMOUS MAP_NORESERVE MAP_HUGETLB
    MADV_DONTNEED MADV_REMOVE
}

/// Readable and writable.
pub const PROT_RW: u64 = PROT_READ | PROT_WRITE;
/// To a place that the caller names.
pub const MREMAP_MAYMOVE_FIXED: u64 = (abi::MREMAP_MAYMOVE | abi::MREMAP_FIXED) as u64;
