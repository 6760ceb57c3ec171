//! The table of system calls, as data: the only list of numbers in the project.
//!
//! The kernel's dispatcher and the document of what is implemented are both generated from it. Numbers and names are
//! those of arch/x86/entry/syscalls/syscall_64.tbl in Linux.

/// How much of a call works.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// As on Linux, for the flags that programs use.
    Full,
    /// As on Linux, except for what the text says.
    Partial(&'static str),
    /// Answers ENOSYS; the text says why where there is a reason to give.
    Absent(&'static str),
}

/// One system call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Call {
    /// Number in RAX.
    pub number: u16,
    /// Linux's name.
    pub name: &'static str,
    /// Argument names, comma-separated.
    pub args: &'static str,
    /// How much of it works.
    pub state: State,
}

/// Hands the table to a macro, in two lists: `implemented { number name "args" "what is missing"; ... }` and
/// `absent { number name "why"; ... }`.
#[macro_export]
macro_rules! syscalls {
    ($each:ident) => {
        $each! {
            implemented {
                0 read "fd, buf, count" "";
                1 write "fd, buf, count" "";
                2 open "path, flags, mode" "";
                3 close "fd" "";
                4 stat "path, statbuf" "";
                5 fstat "fd, statbuf" "";
                6 lstat "path, statbuf" "";
                7 poll "fds, nfds, timeout_ms" "";
                8 lseek "fd, offset, whence" "";
                9 mmap "addr, len, prot, flags, fd, offset" "";
                10 mprotect "addr, len, prot" "";
                11 munmap "addr, len" "";
                12 brk "addr" "";
                13 rt_sigaction "sig, act, oldact, setsize" "";
                14 rt_sigprocmask "how, set, oldset, setsize" "";
                15 rt_sigreturn "" "";
                16 ioctl "fd, request, arg" "";
                17 pread64 "fd, buf, count, offset" "";
                18 pwrite64 "fd, buf, count, offset" "";
                19 readv "fd, iov, iovcnt" "";
                20 writev "fd, iov, iovcnt" "";
                21 access "path, mode" "";
                22 pipe "fds" "";
                23 select "nfds, readfds, writefds, exceptfds, timeout" "";
                24 sched_yield "" "";
                25 mremap "old_addr, old_len, new_len, flags, new_addr" "";
                26 msync "addr, len, flags" "";
                27 mincore "addr, len, vec" "";
                28 madvise "addr, len, advice" "";
                29 shmget "key, size, flags" "";
                30 shmat "id, addr, flags" "";
                31 shmctl "id, cmd, buf" "";
                32 dup "fd" "";
                33 dup2 "oldfd, newfd" "";
                34 pause "" "";
                35 nanosleep "req, rem" "";
                36 getitimer "which, value" "";
                37 alarm "seconds" "";
                38 setitimer "which, new, old" "";
                39 getpid "" "";
                40 sendfile "out, in, offset, count" "";
                41 socket "domain, type, protocol" "AF_UNIX streams only: there is no network";
                42 connect "fd, addr, addrlen" "";
                43 accept "fd, addr, addrlen" "";
                44 sendto "fd, buf, len, flags, addr, addrlen" "no MSG_OOB";
                45 recvfrom "fd, buf, len, flags, addr, addrlen" "no MSG_OOB";
                46 sendmsg "fd, msg, flags" "SCM_RIGHTS; no MSG_OOB";
                47 recvmsg "fd, msg, flags" "SCM_RIGHTS; no MSG_OOB, no SCM_CREDENTIALS";
                48 shutdown "fd, how" "";
                49 bind "fd, addr, addrlen" "";
                50 listen "fd, backlog" "";
                51 getsockname "fd, addr, addrlen" "";
                52 getpeername "fd, addr, addrlen" "";
                53 socketpair "domain, type, protocol, fds" "AF_UNIX streams only";
                54 setsockopt "fd, level, name, value, len" "sizes of buffers and SO_REUSEADDR, SO_KEEPALIVE: heard, with nothing to act on";
                55 getsockopt "fd, level, name, value, len" "SO_TYPE, SO_DOMAIN, SO_PROTOCOL, SO_ERROR, SO_ACCEPTCONN, SO_PEERCRED, sizes of buffers";
                56 clone "flags, stack, parent_tid, child_tid, tls" "no new namespaces";
                57 fork "" "";
                58 vfork "" "";
                59 execve "path, argv, envp" "";
                60 exit "status" "";
                61 wait4 "pid, status, options, rusage" "";
                62 kill "pid, sig" "";
                63 uname "buf" "";
                64 semget "key, nsems, flags" "";
                65 semop "id, sops, nsops" "";
                66 semctl "id, semnum, cmd, arg" "";
                67 shmdt "addr" "";
                68 msgget "key, flags" "";
                69 msgsnd "id, msg, size, flags" "";
                70 msgrcv "id, msg, size, type, flags" "no MSG_COPY";
                71 msgctl "id, cmd, buf" "";
                72 fcntl "fd, cmd, arg" "no leases, no F_SETSIG, no F_NOTIFY; F_SETOWN has no effect";
                73 flock "fd, op" "";
                74 fsync "fd" "";
                75 fdatasync "fd" "";
                76 truncate "path, len" "";
                77 ftruncate "fd, len" "";
                78 getdents "fd, buf, count" "";
                79 getcwd "buf, size" "";
                80 chdir "path" "";
                81 fchdir "fd" "";
                82 rename "old, new" "";
                83 mkdir "path, mode" "";
                84 rmdir "path" "";
                85 creat "path, mode" "";
                86 link "old, new" "";
                87 unlink "path" "";
                88 symlink "target, path" "";
                89 readlink "path, buf, size" "";
                90 chmod "path, mode" "";
                91 fchmod "fd, mode" "";
                92 chown "path, uid, gid" "";
                93 fchown "fd, uid, gid" "";
                94 lchown "path, uid, gid" "";
                95 umask "mask" "";
                96 gettimeofday "tv, tz" "";
                97 getrlimit "resource, rlim" "";
                98 getrusage "who, usage" "the resident maximum is an estimate";
                99 sysinfo "info" "no load averages";
                100 times "buf" "";
                101 ptrace "request, pid, addr, data" "of children alone; no single steps, no events, no floating-point registers, no PTRACE_SEIZE";
                102 getuid "" "";
                104 getgid "" "";
                105 setuid "uid" "";
                106 setgid "gid" "";
                107 geteuid "" "";
                108 getegid "" "";
                109 setpgid "pid, pgid" "";
                110 getppid "" "";
                111 getpgrp "" "";
                112 setsid "" "";
                113 setreuid "ruid, euid" "";
                114 setregid "rgid, egid" "";
                115 getgroups "size, list" "";
                116 setgroups "size, list" "";
                117 setresuid "ruid, euid, suid" "";
                118 getresuid "ruid, euid, suid" "";
                119 setresgid "rgid, egid, sgid" "";
                120 getresgid "rgid, egid, sgid" "";
                121 getpgid "pid" "";
                122 setfsuid "uid" "";
                123 setfsgid "gid" "";
                124 getsid "pid" "";
                125 capget "header, data" "";
                126 capset "header, data" "";
                127 rt_sigpending "set, setsize" "";
                128 rt_sigtimedwait "set, info, timeout, setsize" "";
                129 rt_sigqueueinfo "pid, sig, info" "";
                130 rt_sigsuspend "mask, setsize" "";
                131 sigaltstack "new, old" "";
                132 utime "path, times" "";
                133 mknod "path, mode, dev" "";
                135 personality "persona" "kept and reported";
                137 statfs "path, buf" "";
                138 fstatfs "fd, buf" "";
                140 getpriority "which, who" "";
                141 setpriority "which, who, prio" "kept and reported; all tasks share the CPU alike";
                142 sched_setparam "pid, param" "kept and reported; all tasks share the CPU alike";
                143 sched_getparam "pid, param" "";
                144 sched_setscheduler "pid, policy, param" "kept and reported; all tasks share the CPU alike";
                145 sched_getscheduler "pid" "";
                146 sched_get_priority_max "policy" "";
                147 sched_get_priority_min "policy" "";
                148 sched_rr_get_interval "pid, interval" "";
                149 mlock "addr, len" "";
                150 munlock "addr, len" "";
                151 mlockall "flags" "";
                152 munlockall "" "";
                157 prctl "option, arg2, arg3, arg4, arg5" "names, dumpable, parent-death signal, subreaper, capabilities, no_new_privs, timer slack";
                158 arch_prctl "code, addr" "";
                160 setrlimit "resource, rlim" "";
                161 chroot "path" "";
                162 sync "" "";
                165 mount "source, target, type, flags, data" "tmpfs, ramfs, proc, sysfs, devtmpfs, devpts, bind mounts and remounts; not MS_MOVE; nothing propagates";
                166 umount2 "target, flags" "";
                169 reboot "magic1, magic2, cmd, arg" "ends the run";
                170 sethostname "name, len" "";
                171 setdomainname "name, len" "";
                186 gettid "" "";
                187 readahead "fd, offset, count" "";
                200 tkill "tid, sig" "";
                201 time "tloc" "";
                202 futex "uaddr, op, val, timeout, uaddr2, val3" "no priority inheritance";
                203 sched_setaffinity "pid, len, mask" "accepted where it names a CPU that is online; nothing is bound";
                204 sched_getaffinity "pid, len, mask" "";
                213 epoll_create "size" "";
                216 remap_file_pages "start, size, prot, pgoff, flags" "";
                217 getdents64 "fd, buf, count" "";
                218 set_tid_address "tidptr" "";
                219 restart_syscall "" "";
                220 semtimedop "id, sops, nsops, timeout" "";
                221 fadvise64 "fd, offset, len, advice" "";
                222 timer_create "clockid, sevp, timerid" "no CPU-time clocks";
                223 timer_settime "timerid, flags, new, old" "";
                224 timer_gettime "timerid, value" "";
                225 timer_getoverrun "timerid" "";
                226 timer_delete "timerid" "";
                227 clock_settime "clock, tp" "";
                228 clock_gettime "clock, tp" "";
                229 clock_getres "clock, res" "";
                230 clock_nanosleep "clock, flags, req, rem" "no CPU-time clocks";
                231 exit_group "status" "";
                232 epoll_wait "epfd, events, maxevents, timeout_ms" "";
                233 epoll_ctl "epfd, op, fd, event" "";
                234 tgkill "tgid, tid, sig" "";
                235 utimes "path, times" "";
                247 waitid "idtype, id, info, options, rusage" "";
                257 openat "dirfd, path, flags, mode" "";
                258 mkdirat "dirfd, path, mode" "";
                259 mknodat "dirfd, path, mode, dev" "";
                260 fchownat "dirfd, path, uid, gid, flags" "";
                261 futimesat "dirfd, path, times" "";
                262 newfstatat "dirfd, path, statbuf, flags" "";
                263 unlinkat "dirfd, path, flags" "";
                264 renameat "olddir, old, newdir, new" "";
                265 linkat "olddir, old, newdir, new, flags" "";
                266 symlinkat "target, dirfd, path" "";
                267 readlinkat "dirfd, path, buf, size" "";
                268 fchmodat "dirfd, path, mode" "";
                269 faccessat "dirfd, path, mode" "";
                270 pselect6 "nfds, readfds, writefds, exceptfds, timeout, sigmask" "";
                271 ppoll "fds, nfds, timeout, sigmask, setsize" "";
                272 unshare "flags" "CLONE_FS and CLONE_FILES; there are no further namespaces";
                273 set_robust_list "head, len" "";
                274 get_robust_list "pid, head, len" "";
                275 splice "in, off_in, out, off_out, len, flags" "pages are copied";
                276 tee "in, out, len, flags" "pages are copied; up to a page at a time";
                277 sync_file_range "fd, offset, len, flags" "";
                278 vmsplice "fd, iov, nr_segs, flags" "pages are copied";
                280 utimensat "dirfd, path, times, flags" "";
                281 epoll_pwait "epfd, events, maxevents, timeout_ms, sigmask, setsize" "";
                282 signalfd "fd, mask, setsize" "";
                283 timerfd_create "clock, flags" "";
                284 eventfd "value" "";
                285 fallocate "fd, mode, offset, len" "modes 0, KEEP_SIZE, PUNCH_HOLE";
                286 timerfd_settime "fd, flags, new, old" "no TFD_TIMER_CANCEL_ON_SET";
                287 timerfd_gettime "fd, value" "";
                288 accept4 "fd, addr, addrlen, flags" "";
                289 signalfd4 "fd, mask, setsize, flags" "";
                290 eventfd2 "value, flags" "";
                291 epoll_create1 "flags" "";
                292 dup3 "oldfd, newfd, flags" "";
                293 pipe2 "fds, flags" "";
                295 preadv "fd, iov, iovcnt, pos_low, pos_high" "";
                296 pwritev "fd, iov, iovcnt, pos_low, pos_high" "";
                297 rt_tgsigqueueinfo "tgid, tid, sig, info" "";
                302 prlimit64 "pid, resource, new, old" "";
                306 syncfs "fd" "";
                308 setns "fd, nstype" "there is one namespace of each kind: EINVAL";
                309 getcpu "cpu, node, cache" "";
                310 process_vm_readv "pid, lvec, liovcnt, rvec, riovcnt, flags" "";
                311 process_vm_writev "pid, lvec, liovcnt, rvec, riovcnt, flags" "";
                316 renameat2 "olddir, old, newdir, new, flags" "";
                318 getrandom "buf, count, flags" "";
                319 memfd_create "name, flags" "";
                322 execveat "dirfd, path, argv, envp, flags" "relative to a descriptor only where /proc is mounted";
                323 userfaultfd "flags" "page faults only: no events for fork, mremap, munmap; no UFFDIO_MOVE, no UFFDIO_POISON, no asynchronous write protection; no pages of 1 GiB";
                324 membarrier "cmd, flags, cpu_id" "";
                325 mlock2 "addr, len, flags" "";
                326 copy_file_range "in, off_in, out, off_out, len, flags" "regular files only";
                327 preadv2 "fd, iov, iovcnt, pos_low, pos_high, flags" "only the flags HIPRI, DSYNC, SYNC";
                328 pwritev2 "fd, iov, iovcnt, pos_low, pos_high, flags" "only the flags HIPRI, DSYNC, SYNC";
                329 pkey_mprotect "addr, len, prot, pkey" "as on a processor without protection keys: only the key -1";
                330 pkey_alloc "flags, access_rights" "as on a processor without protection keys: EINVAL";
                331 pkey_free "pkey" "as on a processor without protection keys: EINVAL";
                332 statx "dirfd, path, flags, mask, buf" "";
                334 rseq "rseq, rseq_len, flags, sig" "";
                424 pidfd_send_signal "pidfd, sig, info, flags" "";
                434 pidfd_open "pid, flags" "no PIDFD_THREAD";
                435 clone3 "args, size" "no new namespaces, no set_tid, no cgroups";
                436 close_range "first, last, flags" "CLOSE_RANGE_UNSHARE does not unshare";
                438 pidfd_getfd "pidfd, targetfd, flags" "";
                439 faccessat2 "dirfd, path, mode, flags" "";
                440 process_madvise "pidfd, vec, vlen, advice, flags" "";
                441 epoll_pwait2 "epfd, events, maxevents, timeout, sigmask, setsize" "";
                448 process_mrelease "pidfd, flags" "";
                449 futex_waitv "waiters, nr_futexes, flags, timeout, clockid" "";
                452 fchmodat2 "dirfd, path, mode, flags" "";
                462 mseal "addr, len, flags" "";
            }
            absent {
                103 syslog "";
                134 uselib "";
                136 ustat "";
                139 sysfs "";
                153 vhangup "";
                154 modify_ldt "";
                155 pivot_root "";
                156 _sysctl "";
                159 adjtimex "";
                163 acct "";
                164 settimeofday "";
                167 swapon "";
                168 swapoff "";
                172 iopl "";
                173 ioperm "";
                174 create_module "";
                175 init_module "";
                176 delete_module "";
                177 get_kernel_syms "";
                178 query_module "";
                179 quotactl "";
                180 nfsservctl "";
                181 getpmsg "";
                182 putpmsg "";
                183 afs_syscall "";
                184 tuxcall "";
                185 security "";
                188 setxattr "";
                189 lsetxattr "";
                190 fsetxattr "";
                191 getxattr "";
                192 lgetxattr "";
                193 fgetxattr "";
                194 listxattr "";
                195 llistxattr "";
                196 flistxattr "";
                197 removexattr "";
                198 lremovexattr "";
                199 fremovexattr "";
                205 set_thread_area "";
                206 io_setup "";
                207 io_destroy "";
                208 io_getevents "";
                209 io_submit "";
                210 io_cancel "";
                211 get_thread_area "";
                212 lookup_dcookie "";
                214 epoll_ctl_old "";
                215 epoll_wait_old "";
                236 vserver "";
                237 mbind "";
                238 set_mempolicy "";
                239 get_mempolicy "";
                240 mq_open "";
                241 mq_unlink "";
                242 mq_timedsend "";
                243 mq_timedreceive "";
                244 mq_notify "";
                245 mq_getsetattr "";
                246 kexec_load "";
                248 add_key "";
                249 request_key "";
                250 keyctl "";
                251 ioprio_set "";
                252 ioprio_get "";
                253 inotify_init "";
                254 inotify_add_watch "";
                255 inotify_rm_watch "";
                256 migrate_pages "";
                279 move_pages "";
                294 inotify_init1 "";
                298 perf_event_open "";
                299 recvmmsg "";
                300 fanotify_init "";
                301 fanotify_mark "";
                303 name_to_handle_at "";
                304 open_by_handle_at "";
                305 clock_adjtime "";
                307 sendmmsg "";
                312 kcmp "";
                313 finit_module "";
                314 sched_setattr "";
                315 sched_getattr "";
                317 seccomp "";
                320 kexec_file_load "";
                321 bpf "";
                333 io_pgetevents "";
                335 uretprobe "";
                425 io_uring_setup "";
                426 io_uring_enter "";
                427 io_uring_register "";
                428 open_tree "";
                429 move_mount "";
                430 fsopen "";
                431 fsconfig "";
                432 fsmount "";
                433 fspick "";
                437 openat2 "";
                442 mount_setattr "";
                443 quotactl_fd "";
                444 landlock_create_ruleset "";
                445 landlock_add_rule "";
                446 landlock_restrict_self "";
                447 memfd_secret "";
                450 set_mempolicy_home_node "";
                451 cachestat "";
                453 map_shadow_stack "";
                454 futex_wake "";
                455 futex_wait "";
                456 futex_requeue "";
                457 statmount "";
                458 listmount "";
                459 lsm_get_self_attr "";
                460 lsm_set_self_attr "";
                461 lsm_list_modules "";
                463 setxattrat "";
                464 getxattrat "";
                465 listxattrat "";
                466 removexattrat "";
                467 open_tree_attr "";
                468 file_getattr "";
                469 file_setattr "";
            }
        }
    };
}

macro_rules! make_table {
    (implemented { $($nr:literal $name:ident $args:literal $note:literal;)* }
     absent { $($anr:literal $aname:ident $why:literal;)* }) => {
        /// Every call that Linux 6.x has on x86-64, implemented ones first, each list in order of number.
        pub const TABLE: &[Call] = &[
            $(Call { number: $nr, name: stringify!($name), args: $args, state: implemented($note) },)*
            $(Call { number: $anr, name: stringify!($aname), args: "", state: State::Absent($why) },)*
        ];
    };
}

const fn implemented(note: &'static str) -> State {
    if note.is_empty() { State::Full } else { State::Partial(note) }
}

syscalls!(make_table);

/// The row of a number.
pub fn find(number: u64) -> Option<&'static Call> {
    TABLE.iter().find(|call| u64::from(call.number) == number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_unique() {
        let mut numbers: Vec<_> = TABLE.iter().map(|call| call.number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), TABLE.len());
    }

    #[test]
    fn numbers_are_linux_numbers() {
        use linux_raw_sys::general as nr;
        for (name, number) in
            [("mmap", nr::__NR_mmap), ("clone3", nr::__NR_clone3), ("futex", nr::__NR_futex)]
        {
            assert_eq!(TABLE.iter().find(|c| c.name == name).map(|c| u32::from(c.number)), Some(number));
        }
    }
}
