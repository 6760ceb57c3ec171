//! /proc/sysvipc: the System V objects, a line each (proc_sysvipc(5)).

use crate::fs::text::Text;
use crate::ipc::{msg, perm::Perm, sem, shm};

fn numbers(t: &mut Text, numbers: &[u64], width: usize) {
    for &n in numbers {
        t.c(b' ').padded(n, width, b' ');
    }
}

fn head(t: &mut Text, perm: &Perm, id: u64, mode: u32) {
    // The key is signed.
    let mut key = Text::new();
    key.int(i64::from(perm.key));
    for _ in key.len()..10 {
        t.c(b' ');
    }
    t.b(key.bytes()).c(b' ').padded(id, 10, b' ').s("  ").oct(u64::from(mode), 4);
}

fn owners(t: &mut Text, perm: &Perm) {
    numbers(t, &[perm.uid, perm.gid, perm.cuid, perm.cgid].map(u64::from), 5);
}

/// /proc/sysvipc/shm.
pub fn shm(t: &mut Text) {
    t.s("       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid");
    t.s("      atime      dtime      ctime                   rss                  swap\n");
    shm::for_each(&mut |row| {
        head(t, row.perm, row.id, row.mode);
        numbers(t, &[row.bytes], 21);
        numbers(t, &row.pids.map(u64::from), 5);
        t.c(b' ');
        numbers(t, &[row.attached], 5);
        owners(t, row.perm);
        numbers(t, &row.times, 10);
        numbers(t, &[row.resident, 0], 21);
        t.c(b'\n');
    });
}

/// /proc/sysvipc/sem.
pub fn sem(t: &mut Text) {
    t.s("       key      semid perms      nsems   uid   gid  cuid  cgid      otime      ctime\n");
    sem::for_each(&mut |perm, id, count, otime, ctime| {
        head(t, perm, id, perm.mode);
        numbers(t, &[count], 10);
        owners(t, perm);
        numbers(t, &[otime, ctime], 10);
        t.c(b'\n');
    });
}

/// /proc/sysvipc/msg.
pub fn msg(t: &mut Text) {
    t.s("       key      msqid perms      cbytes       qnum lspid lrpid   uid   gid  cuid  cgid");
    t.s("      stime      rtime      ctime\n");
    msg::for_each(&mut |row| {
        head(t, row.perm, row.id, row.perm.mode);
        t.c(b' ');
        numbers(t, &[row.bytes, row.messages], 10);
        numbers(t, &row.pids.map(u64::from), 5);
        owners(t, row.perm);
        numbers(t, &row.times, 10);
        t.c(b'\n');
    });
}
