//! semctl: values, identifiers, limits (Linux: ipc/sem.c).

use super::*;

/// Nominal size of an undo structure (SEMUSZ).
const SEMUSZ: u32 = 20;

const GETPID: u64 = 11;
const GETVAL: u64 = 12;
const GETALL: u64 = 13;
const GETNCNT: u64 = 14;
const GETZCNT: u64 = 15;
const SETVAL: u64 = 16;
const SETALL: u64 = 17;
const SEM_STAT: u64 = 18;
const SEM_INFO: u64 = 19;
const SEM_STAT_ANY: u64 = 20;

/// semctl(2).
pub fn semctl(a: &Args, _: &mut TrapFrame) -> SysResult {
    let [id, num, cmd, arg, ..] = *a;
    if (id as i32) < 0 {
        return Err(Errno::EINVAL.into());
    }
    let num = num as u32 as u64;
    match cmd & 0xffff_ffff & !IPC_64 {
        cmd @ (IPC_INFO | SEM_INFO) => info(cmd, arg),
        cmd @ (IPC_STAT | SEM_STAT | SEM_STAT_ANY) => stat(id, cmd, arg),
        cmd @ (GETPID | GETVAL | GETNCNT | GETZCNT) => {
            let mut table = TABLE.lock();
            let set = table.get(id)?;
            set.perm.check(READ)?;
            let sem = *set.sem(num)?;
            let count = |for_zero: bool| {
                let here = |w: &&Waiter| u64::from(w.num) == num && w.for_zero == for_zero;
                set.waiters.iter().filter(here).count() as u64
            };
            Ok(match cmd {
                GETPID => u64::from(sem.pid),
                GETVAL => sem.value as u64,
                GETNCNT => count(false),
                _ => count(true),
            })
        }
        GETALL => get_all(id, arg),
        SETVAL => set_value(id, num, arg as i32),
        SETALL => set_all(id, arg),
        IPC_SET => {
            let words: [u64; 6] = uaccess::read(arg)?;
            let mut table = TABLE.lock();
            let set = table.get(id)?;
            set.perm.check_owner()?;
            set.perm.set_from(&words);
            set.ctime = seconds();
            Ok(0)
        }
        IPC_RMID => {
            let removed = TABLE.lock().remove(id)?;
            removed.changed.wake_all();
            Ok(0)
        }
        _ => Err(Errno::EINVAL.into()),
    }
}

fn info(cmd: u64, buf: u64) -> SysResult {
    let setting = |value: &Setting| value.load(Relaxed) as u32;
    let (sets, sems, highest) = {
        let table = TABLE.lock();
        let sems: usize = table.iter().map(|(_, set)| set.sems.len()).sum();
        (table.iter().count() as u32, sems as u32, table.highest_index())
    };
    let (size, last) = if cmd == SEM_INFO { (sets, sems) } else { (SEMUSZ, SEMAEM as u32) };
    // struct seminfo (include/uapi/linux/sem.h).
    let words: [u32; 10] = [
        setting(&SEMMNS),
        setting(&SEMMNI),
        setting(&SEMMNS),
        setting(&SEMMNS),
        setting(&SEMMSL),
        setting(&SEMOPM),
        setting(&SEMOPM),
        size,
        SEMVMX as u32,
        last,
    ];
    uaccess::write(buf, &words)?;
    Ok(highest)
}

fn stat(id: u64, cmd: u64, buf: u64) -> SysResult {
    let (words, answer) = {
        let mut table = TABLE.lock();
        let (answer, set) = if cmd == IPC_STAT { (0, table.get(id)?) } else { table.by_index(id)? };
        if cmd != SEM_STAT_ANY {
            set.perm.check(READ)?;
        }
        (set.status(), answer)
    };
    uaccess::write(buf, &words)?;
    Ok(answer)
}

fn get_all(id: u64, buf: u64) -> SysResult {
    let mut values: Vec<u8> = Vec::new();
    {
        let mut table = TABLE.lock();
        let set = table.get(id)?;
        set.perm.check(READ)?;
        values.try_reserve_exact(2 * set.sems.len()).map_err(|_| Errno::ENOMEM)?;
        for sem in &set.sems {
            values.extend_from_slice(&(sem.value as u16).to_le_bytes());
        }
    }
    uaccess::copy_out(buf, &values)?;
    Ok(0)
}

fn set_value(id: u64, num: u64, value: i32) -> SysResult {
    if !(0..=SEMVMX).contains(&value) {
        return Err(Errno::ERANGE.into());
    }
    let changed = {
        let mut table = TABLE.lock();
        let set = table.get(id)?;
        set.sem(num)?;
        set.perm.check(WRITE)?;
        *set.sem(num)? = Sem { value, pid: current().process.pid };
        set.undos.retain(|undo| u64::from(undo.num) != num);
        set.ctime = seconds();
        set.changed.clone()
    };
    changed.wake_all();
    Ok(0)
}

fn set_all(id: u64, buf: u64) -> SysResult {
    let count = {
        let mut table = TABLE.lock();
        let set = table.get(id)?;
        set.perm.check(WRITE)?;
        set.sems.len()
    };
    let mut values: Vec<u8> = Vec::new();
    values.try_reserve_exact(2 * count).map_err(|_| Errno::ENOMEM)?;
    values.resize(2 * count, 0);
    uaccess::copy_in(&mut values, buf)?;
    let value = |pair: &[u8]| i32::from(u16::from_le_bytes([pair[0], pair[1]]));
    if values.chunks_exact(2).any(|pair| value(pair) > SEMVMX) {
        return Err(Errno::ERANGE.into());
    }
    let changed = {
        let mut table = TABLE.lock();
        let set = table.get(id)?;
        let pid = current().process.pid;
        for (sem, pair) in set.sems.iter_mut().zip(values.chunks_exact(2)) {
            *sem = Sem { value: value(pair), pid };
        }
        set.undos.clear();
        set.ctime = seconds();
        set.changed.clone()
    };
    changed.wake_all();
    Ok(0)
}
