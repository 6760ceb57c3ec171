//! Files: the tree, what is in it, and what is open.
//!
//! ```text
//!   system calls (syscall/file, dir, fd, poll, mount, stat)
//!        |
//!   FileTable --fd--> File --> Path = (Mount, Dentry) --> Inode --> Dir | Regular --> Object (page cache, ptshare_mm)
//!   FsContext (root, cwd)        walk.rs, namei.rs, open.rs            | Device | Fifo (pipe.rs) | Virtual (virt.rs)
//! ```
//!
//! Two kinds of file systems exist: trees in memory (tmpfs; the root, /dev, /dev/shm are such), and trees made when
//! looked at (procfs, sysfs). Pure parts, which a host test can compile alone: `pathname`, `entries`, `cpio`, `ldisc`,
//! `records`, `text`.
//!
//! Locks, outermost first: the tree or the list of mounts (`Rank::Namespace`), an inode (`Rank::Inode`), a file table, a
//! context or an open file's text (`Rank::Files`), pipes and the console (`Rank::Pipe`), a dentry's or mount's place
//! (`Rank::Dentry`). None is held while user memory is touched or over a wait; [`hold::Hold`]s are for the former.

pub mod caller;
pub mod console;
pub mod context;
pub mod cpio;
pub mod dentry;
pub mod device;
pub mod entries;
pub mod epoll;
pub mod event;
pub mod file;
pub mod flags;
pub mod hold;
mod hugepages;
pub mod hugetlbfs;
mod initramfs;
pub mod inode;
pub mod io;
pub mod ldisc;
pub mod locks;
pub mod memfd;
pub mod mount;
pub mod namei;
mod node;
pub mod open;
pub mod pathname;
pub mod perm;
pub mod pidfd;
pub mod pipe;
pub mod poll;
pub mod proc;
mod records;
pub mod regular;
pub mod signalfd;
pub mod socket;
pub mod superblock;
mod sys;
pub mod table;
pub mod text;
pub mod timerfd;
pub mod userfault;
pub mod virt;
pub mod walk;

pub use console::{input_arrived as console_input, session_ended};
pub use context::FsContext;
pub use dentry::Path;
pub use file::File;
pub use inode::Inode;
pub use open::open_exec;
pub use table::FileTable;

use alloc::sync::Arc;
use core::sync::atomic::Ordering::Relaxed;
use dentry::{Dentry, Name};
use inode::{Kind, NewInode, S_IFCHR, S_IFDIR, S_IFLNK};
use mount::{MS_NODEV, MS_NOEXEC, MS_NOSUID, Mount};
use ptshare_abi::Errno;
use ptshare_machine::Machine;
use ptshare_mm::Env;
use ptshare_sync::{Lock, Rank};
use superblock::{ANON_INODE_FS_MAGIC, PROC_SUPER_MAGIC, SYSFS_MAGIC, SuperBlock, TMPFS_MAGIC};
use virt::Node;

/// Root of the first mount, and the mount of what has no place in the tree.
static ROOTS: Lock<Option<(Path, Arc<Mount>)>> = Lock::new(Rank::Registry, None);

/// The root of the first mount.
///
/// # Panics
/// Before [`init`].
pub fn root() -> Path {
    match &*ROOTS.lock() {
        Some((root, _)) => root.clone(),
        None => panic!("no root file system yet"),
    }
}

/// The mount of pipes, memfds and other files without a place in the tree.
///
/// # Panics
/// Before [`init`].
pub fn internal_mount() -> Arc<Mount> {
    match &*ROOTS.lock() {
        Some((_, internal)) => internal.clone(),
        None => panic!("no root file system yet"),
    }
}

/// An empty file table with descriptors 0, 1, 2 on nothing: init opens its own.
pub fn init_files() -> Arc<FileTable> {
    FileTable::new()
}

/// A root directory's inode.
fn root_inode(sb: &Arc<SuperBlock>, mode: u32, kind: Kind) -> Arc<Inode> {
    let new = NewInode { mode: S_IFDIR | mode, uid: 0, gid: 0, time_ns: inode::now() };
    Inode::new(sb, sb.next_ino(), new, kind)
}

/// An empty file system in memory. `fstype` is `tmpfs`, `rootfs` or `devtmpfs`.
pub fn new_tmpfs(fstype: &'static str, source: &[u8], mode: u32, flags: u64) -> Arc<Mount> {
    let sb = SuperBlock::new(fstype, TMPFS_MAGIC);
    let root = Dentry::new(None, Name::Borrowed(b"/"), root_inode(&sb, mode, Inode::empty_dir()));
    Mount::new(sb, root, source, flags)
}

/// procfs.
pub fn new_proc(source: &[u8], flags: u64) -> Arc<Mount> {
    let sb = SuperBlock::new("proc", PROC_SUPER_MAGIC);
    let root = Dentry::new(None, Name::Borrowed(b"/"), root_inode(&sb, 0o555, Kind::Virtual(Node::ProcRoot)));
    Mount::new(sb, root, source, flags)
}

/// sysfs.
pub fn new_sysfs(source: &[u8], flags: u64) -> Arc<Mount> {
    let sb = SuperBlock::new("sysfs", SYSFS_MAGIC);
    let root = Dentry::new(
        None,
        Name::Borrowed(b"/"),
        root_inode(&sb, 0o555, Kind::Virtual(Node::Fixed(&sys::ROOT))),
    );
    Mount::new(sb, root, source, flags)
}

/// Half of RAM in pages: what a tmpfs without `size=` may hold.
pub fn default_limit() -> u64 {
    let census = Machine.census();
    let frames: u64 = census.ram.iter().map(|r| r.end.load(Relaxed) - r.start.load(Relaxed)).sum();
    frames / 2
}

/// Makes the tree: the root from the initramfs, /dev, /dev/shm, /proc, /sys, /tmp.
pub fn init() {
    console::init();
    let rootfs = new_tmpfs("rootfs", b"none", 0o755, 0);
    let root = rootfs.root_path();
    let anonymous = SuperBlock::new("anon_inodefs", ANON_INODE_FS_MAGIC);
    let nowhere = Dentry::new(None, Name::Borrowed(b"/"), root_inode(&anonymous, 0o700, Kind::Anonymous));
    let internal = Mount::new(anonymous, nowhere, b"none", 0);
    *ROOTS.lock() = Some((root.clone(), internal));
    let _ = mount::attach(rootfs, None);
    initramfs::unpack(&root);
    let dev = new_tmpfs("devtmpfs", b"devtmpfs", 0o755, MS_NOSUID);
    dev_nodes(&dev);
    let shm = new_tmpfs("tmpfs", b"tmpfs", 0o1777, MS_NOSUID | MS_NODEV);
    shm.sb.limit_pages.store(default_limit(), Relaxed);
    let strict = MS_NOSUID | MS_NODEV | MS_NOEXEC;
    for (mount, dir, name) in [
        (new_proc(b"proc", strict), root.clone(), b"proc".as_slice()),
        (new_sysfs(b"sysfs", strict), root.clone(), b"sys"),
        (dev.clone(), root.clone(), b"dev"),
        (shm, dev.root_path(), b"shm"),
    ] {
        let on = dir_for(&dir, name, 0o755);
        if let Err(errno) = mount::attach(mount, Some(on)) {
            klog!(1, "cannot mount on {name:?}: {errno:?}");
        }
    }
    dir_for(&root, b"tmp", 0o1777);
}

/// The directory `name` in `dir`, made if there is none.
fn dir_for(dir: &Path, name: &'static [u8], mode: u32) -> Path {
    let dentry =
        dir.dentry.child(name).unwrap_or_else(|| initramfs::make_dir(&dir.mount.sb, &dir.dentry, name, mode));
    Path { mount: dir.mount.clone(), dentry }
}

/// Fills /dev.
fn dev_nodes(dev: &Arc<Mount>) {
    let time_ns = dev.root.inode.times()[1];
    let add = |name: &'static str, mode: u32, kind: Kind| {
        let new = NewInode { mode, uid: 0, gid: 0, time_ns };
        initramfs::insert(&dev.root, name.as_bytes(), Inode::new(&dev.sb, dev.sb.next_ino(), new, kind));
    };
    for &(name, mode, major, minor) in device::NODES {
        add(name, S_IFCHR | mode, Kind::Device(device::makedev(major, minor)));
    }
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        add(name, S_IFLNK | 0o777, Kind::Symlink(Name::Borrowed(target.as_bytes())));
    }
}

/// What a mount system call's type names.
///
/// # Errors
/// ENODEV for an unknown type; EINVAL for options that hugetlbfs does not take.
pub fn new_mount(fstype: &[u8], source: &[u8], flags: u64, options: &[u8]) -> Result<Arc<Mount>, Errno> {
    Ok(match fstype {
        b"tmpfs" | b"ramfs" => new_tmpfs("tmpfs", source, 0o1777, flags),
        b"proc" => new_proc(source, flags),
        b"sysfs" => new_sysfs(source, flags),
        b"hugetlbfs" => hugetlbfs::new(source, flags, options)?,
        b"devpts" => new_tmpfs("devpts", source, 0o755, flags),
        b"devtmpfs" => {
            let mount = new_tmpfs("devtmpfs", source, 0o755, flags);
            dev_nodes(&mount);
            mount
        }
        _ => return Err(Errno::ENODEV),
    })
}
