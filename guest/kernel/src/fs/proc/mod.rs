//! procfs: what is in its root; the processes are in `pid.rs`.

mod extra;
mod kpage;
mod maps;
pub mod pid;
mod status;
pub mod sysctl;
pub(super) mod system;
mod sysvipc;

use super::text::Text;
use super::virt::{Entry, What};

const fn text(name: &'static str, make: fn(&mut Text)) -> Entry {
    Entry { name, mode: 0o444, what: What::Text(make) }
}

const fn link(name: &'static str, make: fn(&mut Text)) -> Entry {
    Entry { name, mode: 0o777, what: What::Link(make) }
}

/// The fixed files in the root of procfs.
pub static ROOT: &[Entry] = &[
    link("self", system::self_link),
    link("thread-self", system::thread_self_link),
    link("mounts", |t| {
        t.s("self/mounts");
    }),
    text("cmdline", system::cmdline),
    text("cpuinfo", system::cpuinfo),
    text("devices", system::devices),
    text("filesystems", system::filesystems),
    Entry { name: "kpagecount", mode: 0o400, what: What::Words(kpage::count) },
    Entry { name: "kpageflags", mode: 0o400, what: What::Words(kpage::flags) },
    text("loadavg", system::loadavg),
    text("meminfo", system::meminfo),
    text("partitions", system::partitions),
    text("stat", system::stat),
    text("swaps", system::swaps),
    text("uptime", system::uptime),
    text("version", system::version),
    text("vmstat", system::vmstat),
    Entry { name: "sys", mode: 0o555, what: What::Dir(sysctl::SYS) },
    Entry { name: "sysvipc", mode: 0o555, what: What::Dir(SYSVIPC) },
];

static SYSVIPC: &[Entry] = &[text("msg", sysvipc::msg), text("sem", sysvipc::sem), text("shm", sysvipc::shm)];
