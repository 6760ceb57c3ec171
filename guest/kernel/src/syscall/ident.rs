//! System calls: users, groups, capabilities; names; process attributes; the machine.

use super::{Args, SysErr, SysResult};
use crate::task::creds::{
    CAP_FULL, CAP_LAST, CAP_SETGID, CAP_SETPCAP, CAP_SETUID, CAP_SYS_ADMIN, CAP_SYS_BOOT, Creds, GROUPS_MAX,
};
use crate::task::{current, find_process_of, uts};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;
use ptshare_abi::Errno;
use ptshare_abi::sys::{general as raw, prctl as pr};
use ptshare_machine::trap::TrapFrame;
use ptshare_machine::{Machine, boot, random, time as clock, uaccess};
use ptshare_mm::Env;
use ptshare_paging::PAGE_BYTES;

/// The argument that leaves an id alone.
const KEEP: u32 = u32::MAX;
/// Most bytes of one getrandom(2).
const RANDOM_MAX: u64 = (1 << 25) - 1;

fn change_creds(change: impl FnOnce(&Creds, &mut Creds) -> Result<(), Errno>) -> SysResult {
    let process = &current().process;
    let old = process.creds();
    let mut new = (*old).clone();
    change(&old, &mut new)?;
    if new.uid != old.uid || new.euid != old.euid || new.suid != old.suid {
        new.fix_caps_after_setuid(&old);
    }
    process.set_creds(new);
    Ok(0)
}

/// getuid(2).
pub fn getuid(_: &Args, _: &mut TrapFrame) -> SysResult {
    Ok(u64::from(current().process.creds().uid))
}

/// geteuid(2).
pub fn geteuid(_: &Args, _: &mut TrapFrame) -> SysResult {
    Ok(u64::from(current().process.creds().euid))
}

/// getgid(2).
pub fn getgid(_: &Args, _: &mut TrapFrame) -> SysResult {
    Ok(u64::from(current().process.creds().gid))
}

/// getegid(2).
pub fn getegid(_: &Args, _: &mut TrapFrame) -> SysResult {
    Ok(u64::from(current().process.creds().egid))
}

fn allow(yes: bool) -> Result<(), Errno> {
    if yes { Ok(()) } else { Err(Errno::EPERM) }
}

/// setuid(2).
pub fn setuid(a: &Args, _: &mut TrapFrame) -> SysResult {
    let id = a[0] as u32;
    if id == KEEP {
        return Err(Errno::EINVAL.into());
    }
    change_creds(|old, new| {
        if old.capable(CAP_SETUID) {
            (new.uid, new.suid) = (id, id);
        } else {
            allow(id == old.uid || id == old.suid)?;
        }
        (new.euid, new.fsuid) = (id, id);
        Ok(())
    })
}

/// setgid(2).
pub fn setgid(a: &Args, _: &mut TrapFrame) -> SysResult {
    let id = a[0] as u32;
    if id == KEEP {
        return Err(Errno::EINVAL.into());
    }
    change_creds(|old, new| {
        if old.capable(CAP_SETGID) {
            (new.gid, new.sgid) = (id, id);
        } else {
            allow(id == old.gid || id == old.sgid)?;
        }
        (new.egid, new.fsgid) = (id, id);
        Ok(())
    })
}

/// setreuid(2).
pub fn setreuid(a: &Args, _: &mut TrapFrame) -> SysResult {
    let (ruid, euid) = (a[0] as u32, a[1] as u32);
    change_creds(|old, new| {
        let root = old.capable(CAP_SETUID);
        if ruid != KEEP {
            allow(root || ruid == old.uid || ruid == old.euid)?;
            new.uid = ruid;
        }
        if euid != KEEP {
            allow(root || euid == old.uid || euid == old.euid || euid == old.suid)?;
            new.euid = euid;
        }
        if ruid != KEEP || euid != KEEP && euid != old.uid {
            new.suid = new.euid;
        }
        new.fsuid = new.euid;
        Ok(())
    })
}

/// setregid(2).
pub fn setregid(a: &Args, _: &mut TrapFrame) -> SysResult {
    let (rgid, egid) = (a[0] as u32, a[1] as u32);
    change_creds(|old, new| {
        let root = old.capable(CAP_SETGID);
        if rgid != KEEP {
            allow(root || rgid == old.gid || rgid == old.egid)?;
            new.gid = rgid;
        }
        if egid != KEEP {
            allow(root || egid == old.gid || egid == old.egid || egid == old.sgid)?;
            new.egid = egid;
        }
        if rgid != KEEP || egid != KEEP && egid != old.gid {
            new.sgid = new.egid;
        }
        new.fsgid = new.egid;
        Ok(())
    })
}

/// setresuid(2).
pub fn setresuid(a: &Args, _: &mut TrapFrame) -> SysResult {
    let [ruid, euid, suid] = [a[0], a[1], a[2]].map(|id| id as u32);
    change_creds(|old, new| {
        let root = old.capable(CAP_SETUID);
        let may = |id: u32| id == KEEP || root || id == old.uid || id == old.euid || id == old.suid;
        allow(may(ruid) && may(euid) && may(suid))?;
        for (id, to) in [(ruid, &mut new.uid), (euid, &mut new.euid), (suid, &mut new.suid)] {
            if id != KEEP {
                *to = id;
            }
        }
        new.fsuid = new.euid;
        Ok(())
    })
}

/// setresgid(2).
pub fn setresgid(a: &Args, _: &mut TrapFrame) -> SysResult {
    let [rgid, egid, sgid] = [a[0], a[1], a[2]].map(|id| id as u32);
    change_creds(|old, new| {
        let root = old.capable(CAP_SETGID);
        let may = |id: u32| id == KEEP || root || id == old.gid || id == old.egid || id == old.sgid;
        allow(may(rgid) && may(egid) && may(sgid))?;
        for (id, to) in [(rgid, &mut new.gid), (egid, &mut new.egid), (sgid, &mut new.sgid)] {
            if id != KEEP {
                *to = id;
            }
        }
        new.fsgid = new.egid;
        Ok(())
    })
}

/// getresuid(2).
pub fn getresuid(a: &Args, _: &mut TrapFrame) -> SysResult {
    let creds = current().process.creds();
    for (at, id) in [(a[0], creds.uid), (a[1], creds.euid), (a[2], creds.suid)] {
        uaccess::write(at, &id)?;
    }
    Ok(0)
}

/// getresgid(2).
pub fn getresgid(a: &Args, _: &mut TrapFrame) -> SysResult {
    let creds = current().process.creds();
    for (at, id) in [(a[0], creds.gid), (a[1], creds.egid), (a[2], creds.sgid)] {
        uaccess::write(at, &id)?;
    }
    Ok(0)
}

/// setfsuid(2): gives the id before, whether or not it changed.
pub fn setfsuid(a: &Args, _: &mut TrapFrame) -> SysResult {
    let id = a[0] as u32;
    let before = current().process.creds().fsuid;
    let _ = change_creds(|old, new| {
        let known = [old.uid, old.euid, old.suid, old.fsuid].contains(&id);
        allow(id != KEEP && (known || old.capable(CAP_SETUID)))?;
        new.fsuid = id;
        Ok(())
    });
    Ok(u64::from(before))
}

/// setfsgid(2): gives the id before, whether or not it changed.
pub fn setfsgid(a: &Args, _: &mut TrapFrame) -> SysResult {
    let id = a[0] as u32;
    let before = current().process.creds().fsgid;
    let _ = change_creds(|old, new| {
        let known = [old.gid, old.egid, old.sgid, old.fsgid].contains(&id);
        allow(id != KEEP && (known || old.capable(CAP_SETGID)))?;
        new.fsgid = id;
        Ok(())
    });
    Ok(u64::from(before))
}

/// getgroups(2).
pub fn getgroups(a: &Args, _: &mut TrapFrame) -> SysResult {
    let size = a[0] as i32;
    let groups = current().process.creds().groups.clone();
    if size < 0 || size != 0 && (size as usize) < groups.len() {
        return Err(Errno::EINVAL.into());
    }
    if size != 0 {
        for (i, group) in groups.iter().enumerate() {
            uaccess::write(a[1].wrapping_add(4 * i as u64), group)?;
        }
    }
    Ok(groups.len() as u64)
}

/// setgroups(2).
pub fn setgroups(a: &Args, _: &mut TrapFrame) -> SysResult {
    let size = a[0] as u32 as usize;
    allow(current().process.capable(CAP_SETGID))?;
    if size > GROUPS_MAX {
        return Err(Errno::EINVAL.into());
    }
    let mut groups: Vec<u32> = Vec::new();
    groups.try_reserve_exact(size).map_err(|_| Errno::ENOMEM)?;
    for i in 0..size {
        groups.push(uaccess::read(a[1].wrapping_add(4 * i as u64))?);
    }
    change_creds(|_, new| {
        new.groups = Arc::new(groups);
        Ok(())
    })
}

/// Words for each of effective, permitted, inheritable that a capability header's version has.
fn capability_words(header: u64) -> Result<(usize, u32), SysErr> {
    const V3: u32 = 0x2008_0522;
    let [version, pid]: [u32; 2] = uaccess::read(header)?;
    match version {
        0x1998_0330 => Ok((1, pid)),
        0x2007_1026 | V3 => Ok((2, pid)),
        _ => {
            uaccess::write(header, &V3)?;
            Err(Errno::EINVAL.into())
        }
    }
}

/// capget(2).
pub fn capget(a: &Args, _: &mut TrapFrame) -> SysResult {
    let (words, pid) = match capability_words(a[0]) {
        // A probe for the version.
        Err(SysErr::Errno(Errno::EINVAL)) if a[1] == 0 => return Ok(0),
        other => other?,
    };
    if (pid as i32) < 0 {
        return Err(Errno::EINVAL.into());
    }
    let process = match pid {
        0 => current().process.clone(),
        pid => find_process_of(pid).ok_or(Errno::ESRCH)?,
    };
    if a[1] == 0 {
        return Ok(0);
    }
    let creds = process.creds();
    let sets = [creds.cap_effective, creds.cap_permitted, creds.cap_inheritable];
    for word in 0..words {
        let part = sets.map(|set| (set >> (32 * word)) as u32);
        uaccess::write(a[1] + 12 * word as u64, &part)?;
    }
    Ok(0)
}

/// capset(2).
pub fn capset(a: &Args, _: &mut TrapFrame) -> SysResult {
    let (words, pid) = capability_words(a[0])?;
    allow(pid == 0 || pid == current().process.pid || pid == current().tid())?;
    let mut sets = [0_u64; 3];
    for word in 0..words {
        let part: [u32; 3] = uaccess::read(a[1] + 12 * word as u64)?;
        for (set, bits) in sets.iter_mut().zip(part) {
            *set |= u64::from(bits) << (32 * word);
        }
    }
    let [effective, permitted, inheritable] = sets.map(|set| set & CAP_FULL);
    change_creds(|old, new| {
        let inherit_from =
            old.cap_inheritable | if old.capable(CAP_SETPCAP) { CAP_FULL } else { old.cap_permitted };
        allow(
            inheritable & !inherit_from == 0
                && inheritable & !(old.cap_inheritable | old.cap_bounding) == 0
                && permitted & !old.cap_permitted == 0
                && effective & !permitted == 0,
        )?;
        (new.cap_effective, new.cap_permitted, new.cap_inheritable) = (effective, permitted, inheritable);
        new.cap_ambient &= permitted & inheritable;
        Ok(())
    })
}

/// prctl(2).
pub fn prctl(a: &Args, _: &mut TrapFrame) -> SysResult {
    let task = current();
    let process = &task.process;
    let value = a[1];
    let capability = || if value <= u64::from(CAP_LAST) { Ok(1_u64 << value) } else { Err(Errno::EINVAL) };
    match a[0] as u32 {
        pr::PR_SET_NAME => {
            let mut name = [0_u8; 16];
            for (i, byte) in name.iter_mut().take(15).enumerate() {
                *byte = uaccess::read(value + i as u64)?;
                if *byte == 0 {
                    break;
                }
            }
            let len = name.iter().position(|&b| b == 0).unwrap_or(15);
            task.set_comm(name.get(..len).unwrap_or(&name));
        }
        pr::PR_GET_NAME => uaccess::write(value, &task.comm())?,
        pr::PR_SET_PDEATHSIG => {
            if value > u64::from(crate::signal::SIGNALS) {
                return Err(Errno::EINVAL.into());
            }
            task.parent_death_signal.store(value as u32, Relaxed);
        }
        pr::PR_GET_PDEATHSIG => uaccess::write(value, &task.parent_death_signal.load(Relaxed))?,
        pr::PR_GET_DUMPABLE => return Ok(u64::from(process.dumpable())),
        pr::PR_SET_DUMPABLE => {
            if value > 1 {
                return Err(Errno::EINVAL.into());
            }
            process.set_dumpable(value as u32);
        }
        pr::PR_SET_CHILD_SUBREAPER => process.set_subreaper(value != 0),
        pr::PR_GET_CHILD_SUBREAPER => uaccess::write(value, &u32::from(process.is_subreaper()))?,
        pr::PR_GET_KEEPCAPS => return Ok(u64::from(process.creds().keep_caps)),
        pr::PR_SET_KEEPCAPS => {
            if value > 1 {
                return Err(Errno::EINVAL.into());
            }
            return change_creds(|_, new| {
                new.keep_caps = value != 0;
                Ok(())
            });
        }
        pr::PR_SET_NO_NEW_PRIVS => {
            if value != 1 || a[2] | a[3] | a[4] != 0 {
                return Err(Errno::EINVAL.into());
            }
            return change_creds(|_, new| {
                new.no_new_privs = true;
                Ok(())
            });
        }
        pr::PR_GET_NO_NEW_PRIVS => return Ok(u64::from(process.creds().no_new_privs)),
        pr::PR_CAPBSET_READ => return Ok(u64::from(process.creds().cap_bounding & capability()? != 0)),
        pr::PR_CAPBSET_DROP => {
            let bit = capability()?;
            return change_creds(|old, new| {
                allow(old.capable(CAP_SETPCAP))?;
                new.cap_bounding &= !bit;
                Ok(())
            });
        }
        pr::PR_GET_SECUREBITS | pr::PR_GET_TIMING | pr::PR_GET_THP_DISABLE => return Ok(0),
        pr::PR_SET_TIMERSLACK => {
            let slack = if value == 0 { 50_000 } else { value };
            task.timer_slack.store(slack, Relaxed);
        }
        pr::PR_GET_TIMERSLACK => return Ok(task.timer_slack.load(Relaxed)),
        _ => return Err(Errno::EINVAL.into()),
    }
    Ok(0)
}

/// personality(2): kept and reported.
pub fn personality(a: &Args, _: &mut TrapFrame) -> SysResult {
    let cell = &current().process.personality;
    let before = cell.load(Relaxed);
    if a[0] as u32 != u32::MAX {
        cell.store(a[0] as u32, Relaxed);
    }
    Ok(u64::from(before))
}

/// uname(2).
pub fn uname(a: &Args, _: &mut TrapFrame) -> SysResult {
    uaccess::write(a[0], &uts::utsname())?;
    Ok(0)
}

fn set_name(a: &Args, set: fn(&[u8]) -> Result<(), Errno>) -> SysResult {
    allow(current().process.capable(CAP_SYS_ADMIN))?;
    let mut name = [0; uts::NAME_BYTES - 1];
    let text = name.get_mut(..a[1] as usize).ok_or(Errno::EINVAL)?;
    uaccess::copy_in(text, a[0])?;
    set(text)?;
    Ok(0)
}

/// sethostname(2).
pub fn sethostname(a: &Args, _: &mut TrapFrame) -> SysResult {
    set_name(a, uts::set_hostname)
}

/// setdomainname(2).
pub fn setdomainname(a: &Args, _: &mut TrapFrame) -> SysResult {
    set_name(a, uts::set_domainname)
}

/// sysinfo(2).
pub fn sysinfo(a: &Args, _: &mut TrapFrame) -> SysResult {
    let census = boot::census();
    let total = crate::task::limits::memory_pages();
    let free = Machine.allocator().lock().free_frames(census);
    let mut words = [0_u64; 14];
    words[0] = clock::now_ns() / 1_000_000_000;
    words[4] = total * PAGE_BYTES;
    words[5] = free * PAGE_BYTES;
    words[10] = crate::task::task_count() as u64 & 0xffff;
    words[13] = 1;
    uaccess::write(a[0], &words)?;
    Ok(0)
}

/// getrandom(2).
pub fn getrandom(a: &Args, _: &mut TrapFrame) -> SysResult {
    let flags = a[2] as u32;
    let known = raw::GRND_NONBLOCK | raw::GRND_RANDOM | raw::GRND_INSECURE;
    if flags & !known != 0
        || flags & (raw::GRND_RANDOM | raw::GRND_INSECURE) == raw::GRND_RANDOM | raw::GRND_INSECURE
    {
        return Err(Errno::EINVAL.into());
    }
    let count = a[1].min(RANDOM_MAX);
    let mut done = 0;
    while done < count {
        let mut chunk = [0_u8; 256];
        let len = (count - done).min(256) as usize;
        for word in chunk.chunks_mut(8).take(len.div_ceil(8)) {
            word.copy_from_slice(&random::u64().to_le_bytes());
        }
        if uaccess::copy_out(a[0].wrapping_add(done), chunk.get(..len).unwrap_or(&chunk)).is_err() {
            break;
        }
        done += len as u64;
        if done < count && current().signal_pending() {
            break;
        }
    }
    if done == 0 && count != 0 { Err(Errno::EFAULT.into()) } else { Ok(done) }
}

/// reboot(2): ends the run.
pub fn reboot(a: &Args, _: &mut TrapFrame) -> SysResult {
    allow(current().process.capable(CAP_SYS_BOOT))?;
    let second = [
        raw::LINUX_REBOOT_MAGIC2,
        raw::LINUX_REBOOT_MAGIC2A,
        raw::LINUX_REBOOT_MAGIC2B,
        raw::LINUX_REBOOT_MAGIC2C,
    ];
    if a[0] as u32 != raw::LINUX_REBOOT_MAGIC1 || !second.contains(&(a[1] as u32)) {
        return Err(Errno::EINVAL.into());
    }
    match a[2] as u32 {
        raw::LINUX_REBOOT_CMD_RESTART
        | raw::LINUX_REBOOT_CMD_RESTART2
        | raw::LINUX_REBOOT_CMD_HALT
        | raw::LINUX_REBOOT_CMD_POWER_OFF => crate::shutdown(0),
        raw::LINUX_REBOOT_CMD_CAD_ON | raw::LINUX_REBOOT_CMD_CAD_OFF => Ok(0),
        _ => Err(Errno::EINVAL.into()),
    }
}
