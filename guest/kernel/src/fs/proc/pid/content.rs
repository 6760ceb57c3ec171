//! What the files of a process's directory hold, and what writing to them does.

use super::*;

impl PidNode {
    /// Is it a text that may be long, and is taken in pieces ([`PidNode::more`])?
    pub fn is_long(&self) -> bool {
        matches!(self.name(), "maps" | "smaps")
    }

    /// Adds to the text of a long file, from a place that an earlier call gave (0: the beginning), until it is `enough`
    /// bytes long. Gives where to go on, `None` at the end.
    ///
    /// # Errors
    /// ESRCH when the process is gone; EACCES.
    pub fn more(&self, t: &mut Text, from: u64, enough: usize) -> Result<Option<u64>, Errno> {
        self.may_look()?;
        let Some(mm) = self.mm()? else { return Ok(None) };
        Ok(match self.name() {
            "maps" => maps::maps(t, &mm, from, enough),
            _ => maps::smaps(t, &mm, from, enough),
        })
    }

    /// The whole text of a file that is not long.
    ///
    /// # Errors
    /// ESRCH when the process is gone; EACCES; EISDIR.
    pub fn text(&self, t: &mut Text) -> Result<(), Errno> {
        let process = self.process()?;
        let task = self.task();
        if let Which::FdInfoFile(fd) = self.which {
            let files = process.try_files().ok_or(Errno::ENOENT)?;
            let file = files.get(fd as i32).map_err(|_| Errno::ENOENT)?;
            extra::fd_info(t, &file);
            return Ok(());
        }
        let mm = process.try_mm();
        match (self.name(), &mm) {
            ("smaps_rollup", Some(mm)) => {
                self.may_look()?;
                maps::smaps_rollup(t, mm);
            }
            ("statm", Some(mm)) => maps::statm(t, mm),
            ("statm", None) => {
                t.s("0 0 0 0 0 0 0\n");
            }
            ("cmdline", Some(mm)) => {
                let layout = mm.layout();
                t.b(&maps::bytes(mm, layout.arg_start, layout.arg_end, STRINGS_MAX));
            }
            ("environ", Some(mm)) => {
                self.may_look()?;
                let layout = mm.layout();
                t.b(&maps::bytes(mm, layout.env_start, layout.env_end, STRINGS_MAX));
            }
            ("auxv", Some(mm)) => {
                self.may_look()?;
                extra::auxv(t, mm);
            }
            ("stat", _) => status::stat(t, &process, task.as_ref(), self.id(), self.tid == 0),
            ("status", _) => status::status(t, &process, task.as_ref(), self.id()),
            ("io", _) => {
                self.may_look()?;
                let one = task.as_ref().filter(|_| self.tid != 0);
                let of_all = || task::transfers::of_process(&process);
                extra::io(t, one.map_or_else(of_all, |task| task.transfers.get()));
            }
            ("limits", _) => status::limits(t, &process),
            ("comm", _) => {
                status::comm(t, task.as_ref(), &process);
                t.c(b'\n');
            }
            ("mounts", _) => extra::mounts(t, &process, false),
            ("mountinfo", _) => extra::mounts(t, &process, true),
            ("oom_score_adj", _) => {
                t.int(i64::from(process.oom_score_adj.load(Relaxed))).c(b'\n');
            }
            ("oom_adj", _) => {
                t.int(i64::from(process.oom_score_adj.load(Relaxed)) * 17 / 1000).c(b'\n');
            }
            ("oom_score", _) => {
                t.dec(task::oom::score(&process)).c(b'\n');
            }
            ("personality", _) => {
                t.hex(u64::from(process.personality.load(Relaxed)), 8).c(b'\n');
            }
            ("syscall", _) => {
                t.s("running\n");
            }
            ("wchan", _) => {
                t.c(b'0');
            }
            _ => {}
        }
        Ok(())
    }

    /// Reads of files that are no texts; `None` for the others.
    pub fn read_binary(&self, pos: u64, sink: &mut Sink) -> Option<SysResult> {
        let read: fn(&KMm, u64, &mut Sink) -> SysResult = match self.name() {
            "pagemap" => maps::pagemap,
            "mem" => maps::read_mem,
            _ => return None,
        };
        Some(match self.may_look().and_then(|()| self.mm()) {
            Ok(Some(mm)) => read(&mm, pos, sink),
            Ok(None) => Ok(0),
            Err(errno) => Err(errno.into()),
        })
    }

    /// Writes of files that are no texts; `None` for the others.
    pub fn write_binary(&self, source: &mut Source, pos: u64) -> Option<SysResult> {
        if self.name() != "mem" {
            return None;
        }
        Some(match self.may_look().and_then(|()| self.mm()) {
            Ok(Some(mm)) => maps::write_mem(&mm, pos, source),
            Ok(None) => Ok(0),
            Err(errno) => Err(errno.into()),
        })
    }

    /// Takes a line.
    ///
    /// # Errors
    /// EINVAL, EACCES, EPERM, ESRCH.
    pub fn write(&self, line: &[u8]) -> Result<(), Errno> {
        let process = self.process()?;
        match self.name() {
            "comm" => {
                if process.pid != task::current().process.pid {
                    return Err(Errno::EINVAL);
                }
                let task = self.task().ok_or(Errno::ESRCH)?;
                task.set_comm(line.strip_suffix(b"\n").unwrap_or(line));
            }
            "oom_score_adj" | "oom_adj" => {
                let n = signed(line).ok_or(Errno::EINVAL)?;
                let (range, scale) =
                    if self.name() == "oom_adj" { (-17..=15, 1000) } else { (-1000..=1000, 17) };
                if !range.contains(&n) {
                    return Err(Errno::EINVAL);
                }
                let value = if scale == 1000 { n * 1000 / 17 } else { n };
                if value < i64::from(process.oom_score_adj.load(Relaxed)) {
                    caller::need(caller::CAP_SYS_RESOURCE).map_err(|_| Errno::EACCES)?;
                }
                process.oom_score_adj.store(value as i32, Relaxed);
            }
            "clear_refs" if !(1..=5).contains(&signed(line).ok_or(Errno::EINVAL)?) => {
                return Err(Errno::EINVAL);
            }
            "clear_refs" | "limits" => {}
            _ => return Err(Errno::EACCES),
        }
        Ok(())
    }
}

fn signed(line: &[u8]) -> Option<i64> {
    let line = line.trim_ascii();
    match line.strip_prefix(b"-") {
        Some(digits) => number(digits).and_then(|n| i64::try_from(n).ok()).map(|n| -n),
        None => number(line).and_then(|n| i64::try_from(n).ok()),
    }
}
