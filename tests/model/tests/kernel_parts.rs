//! The guest kernel's pure parts, compiled for the host: the kernel itself is a freestanding program that no host test
//! can link, so these modules are included by path and bring their unit tests with them.

extern crate alloc;

#[allow(dead_code)]
#[path = "../../../guest/kernel/src/fs/cpio.rs"]
mod cpio;
#[allow(dead_code)]
#[path = "../../../guest/kernel/src/fs/entries.rs"]
mod entries;
#[allow(dead_code)]
#[path = "../../../guest/kernel/src/fs/ldisc.rs"]
mod ldisc;
#[allow(dead_code)]
#[path = "../../../guest/kernel/src/fs/pathname.rs"]
mod pathname;
#[allow(dead_code)]
#[path = "../../../guest/kernel/src/fs/records.rs"]
mod records;
#[allow(dead_code)]
#[path = "../../../guest/kernel/src/fs/text.rs"]
mod text;
