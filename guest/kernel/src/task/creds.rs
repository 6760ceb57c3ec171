//! Credentials: who a process is. Copied on change, shared by fork.
//!
//! Kept per process: Linux keeps them per thread, and its C libraries make every thread of a process change them
//! together.

use alloc::sync::Arc;
use alloc::vec::Vec;

/// CAP_KILL: may signal anybody.
pub const CAP_KILL: u32 = 5;
/// CAP_SETGID.
pub const CAP_SETGID: u32 = 6;
/// CAP_SETUID.
pub const CAP_SETUID: u32 = 7;
/// CAP_SETPCAP.
pub const CAP_SETPCAP: u32 = 8;
/// CAP_IPC_LOCK: may lock memory without limit.
pub const CAP_IPC_LOCK: u32 = 14;
/// CAP_SYS_RAWIO.
pub const CAP_SYS_RAWIO: u32 = 17;
/// CAP_SYS_PTRACE: may reach into other processes.
pub const CAP_SYS_PTRACE: u32 = 19;
/// CAP_SYS_BOOT: may call reboot(2).
pub const CAP_SYS_BOOT: u32 = 22;
/// CAP_SYS_NICE: may raise priorities.
pub const CAP_SYS_NICE: u32 = 23;
/// CAP_SYS_RESOURCE: may raise hard limits.
pub const CAP_SYS_RESOURCE: u32 = 24;
/// CAP_SYS_TIME: may set the clock.
pub const CAP_SYS_TIME: u32 = 25;
/// CAP_SYS_ADMIN.
pub const CAP_SYS_ADMIN: u32 = 21;
/// Highest capability of Linux 6.1 (CAP_CHECKPOINT_RESTORE).
pub const CAP_LAST: u32 = 40;
/// Every capability.
pub const CAP_FULL: u64 = (1 << (CAP_LAST + 1)) - 1;
/// Most supplementary groups (NGROUPS_MAX).
pub const GROUPS_MAX: usize = 65536;

/// User, groups and capabilities.
#[derive(Clone, Debug)]
pub struct Creds {
    /// Real user.
    pub uid: u32,
    /// Effective user.
    pub euid: u32,
    /// Saved user.
    pub suid: u32,
    /// User for file access.
    pub fsuid: u32,
    /// Real group.
    pub gid: u32,
    /// Effective group.
    pub egid: u32,
    /// Saved group.
    pub sgid: u32,
    /// Group for file access.
    pub fsgid: u32,
    /// Supplementary groups.
    pub groups: Arc<Vec<u32>>,
    /// Capabilities in force.
    pub cap_effective: u64,
    /// Capabilities that may be put in force.
    pub cap_permitted: u64,
    /// Capabilities kept over exec.
    pub cap_inheritable: u64,
    /// Bounding set.
    pub cap_bounding: u64,
    /// Ambient set.
    pub cap_ambient: u64,
    /// PR_SET_KEEPCAPS.
    pub keep_caps: bool,
    /// PR_SET_NO_NEW_PRIVS.
    pub no_new_privs: bool,
}

impl Creds {
    /// The superuser with everything.
    pub fn root() -> Creds {
        Creds {
            uid: 0,
            euid: 0,
            suid: 0,
            fsuid: 0,
            gid: 0,
            egid: 0,
            sgid: 0,
            fsgid: 0,
            groups: Arc::new(Vec::new()),
            cap_effective: CAP_FULL,
            cap_permitted: CAP_FULL,
            cap_inheritable: 0,
            cap_bounding: CAP_FULL,
            cap_ambient: 0,
            keep_caps: false,
            no_new_privs: false,
        }
    }

    /// Is this capability in force?
    pub fn capable(&self, cap: u32) -> bool {
        self.cap_effective >> cap & 1 != 0
    }

    /// Is `gid` the file-access group or a supplementary one?
    pub fn in_group(&self, gid: u32) -> bool {
        self.fsgid == gid || self.groups.contains(&gid)
    }

    /// May these credentials signal a process with `target`'s? Session and SIGCONT rules apart.
    pub fn may_signal(&self, target: &Creds) -> bool {
        self.capable(CAP_KILL)
            || self.euid == target.suid
            || self.euid == target.uid
            || self.uid == target.suid
            || self.uid == target.uid
    }

    /// Adjusts capabilities after a change of user ids from `old`, as security/commoncap.c cap_emulate_setxuid does.
    pub fn fix_caps_after_setuid(&mut self, old: &Creds) {
        let had_root = old.uid == 0 || old.euid == 0 || old.suid == 0;
        let has_root = self.uid == 0 || self.euid == 0 || self.suid == 0;
        if had_root && !has_root && !self.keep_caps {
            self.cap_permitted = 0;
            self.cap_effective = 0;
            self.cap_ambient = 0;
        }
        if old.euid == 0 && self.euid != 0 {
            self.cap_effective = 0;
        }
        if old.euid != 0 && self.euid == 0 {
            self.cap_effective = self.cap_permitted;
        }
    }

    /// What exec makes of the capabilities, given the file's owner where it is set-user-ID (already applied).
    pub fn fix_caps_at_exec(&mut self) {
        if self.uid == 0 || self.euid == 0 {
            self.cap_permitted = self.cap_bounding | self.cap_inheritable;
            self.cap_effective = if self.euid == 0 { self.cap_permitted } else { 0 };
        } else {
            self.cap_permitted = self.cap_ambient;
            self.cap_effective = self.cap_ambient;
        }
        self.keep_caps = false;
    }
}
