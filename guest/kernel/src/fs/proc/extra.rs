//! /proc/PID/auxv, fdinfo, mounts and mountinfo.

use crate::KMm;
use crate::fs::file::{File, Ops};
use crate::fs::text::Text;
use crate::fs::{device, mount};
use crate::task::Process;
use crate::task::transfers::Counts;
use core::sync::atomic::Ordering::Relaxed;

/// The auxiliary vector lies on the stack, after the NULL that ends the environment pointers.
pub fn auxv(t: &mut Text, mm: &KMm) {
    let start = mm.layout().start_stack;
    let mut word = [0u8; 8];
    let mut at = start;
    let mut read = |at: &mut u64| -> Option<u64> {
        mm.read_user(*at, &mut word).ok()?;
        *at += 8;
        Some(u64::from_le_bytes(word))
    };
    let Some(argc) = read(&mut at) else { return };
    at = at.saturating_add(argc.min(1 << 20) * 8 + 8);
    for _ in 0..1 << 16 {
        match read(&mut at) {
            Some(0) => break,
            Some(_) => {}
            None => return,
        }
    }
    for _ in 0..64 {
        let (Some(key), Some(value)) = (read(&mut at), read(&mut at)) else { return };
        t.b(&key.to_le_bytes()).b(&value.to_le_bytes());
        if key == 0 {
            break;
        }
    }
}

pub fn fd_info(t: &mut Text, file: &File) {
    t.s("pos:\t").dec(file.position()).s("\nflags:\t0").oct(u64::from(file.flags()), 1);
    t.s("\nmnt_id:\t").dec(u64::from(file.path.mount.id)).s("\nino:\t").dec(file.inode().ino).c(b'\n');
    if let Ops::Userfault(uffd) = &file.ops {
        uffd.fd_info(t);
    }
    match &file.ops {
        Ops::Event(counter) => counter.fd_info(t),
        Ops::Epoll(set) => set.fd_info(t),
        Ops::Pidfd(pidfd) => {
            let pid = if pidfd.process().is_reaped() { -1 } else { i64::from(pidfd.process().pid) };
            t.s("Pid:\t").int(pid).s("\nNSpid:\t").int(pid).c(b'\n');
        }
        _ => {}
    }
}

/// What calls have moved. Nothing goes to a disk or comes from one.
pub fn io(t: &mut Text, [rchar, wchar, syscr, syscw]: Counts) {
    let lines =
        [("rchar: ", rchar), ("wchar: ", wchar), ("syscr: ", syscr), ("syscw: ", syscw), ("read_bytes: ", 0)];
    for (name, value) in lines.into_iter().chain([("write_bytes: ", 0), ("cancelled_write_bytes: ", 0)]) {
        t.s(name).dec(value).c(b'\n');
    }
}

pub fn mounts(t: &mut Text, process: &Process, info: bool) {
    let Some(fs) = process.try_fs() else { return };
    let root = fs.root();
    for mount in mount::all() {
        let (place, under) = mount.root_path().text(&root);
        if !under && mount.mountpoint().is_some() {
            continue;
        }
        let options = |t: &mut Text| {
            t.s(if mount.has(mount::MS_RDONLY) { "ro" } else { "rw" });
            for (flag, name) in
                [(mount::MS_NOSUID, ",nosuid"), (mount::MS_NODEV, ",nodev"), (mount::MS_NOEXEC, ",noexec")]
            {
                if mount.has(flag) {
                    t.s(name);
                }
            }
            t.s(",relatime");
        };
        let escape = b" \t\n\\#";
        if info {
            let parent = mount.mountpoint().map_or(mount.id, |on| on.mount.id);
            t.dec(u64::from(mount.id)).c(b' ').dec(u64::from(parent)).c(b' ');
            t.dec(device::major(mount.sb.dev)).c(b':').dec(device::minor(mount.sb.dev));
            t.s(" / ").path(&place, escape).c(b' ');
            options(t);
            t.s(" - ").s(mount.sb.fstype).c(b' ').path(&mount.source, escape);
            t.s(if mount.has(mount::MS_RDONLY) { " ro" } else { " rw" });
        } else {
            t.path(&mount.source, escape).c(b' ').path(&place, escape).c(b' ').s(mount.sb.fstype).c(b' ');
            options(t);
        }
        let limit = mount.sb.limit_pages.load(Relaxed);
        if mount.sb.fstype == "tmpfs" && limit != u64::MAX {
            t.s(",size=").dec(limit * 4).c(b'k');
        }
        t.s(if info { "\n" } else { " 0 0\n" });
    }
}
