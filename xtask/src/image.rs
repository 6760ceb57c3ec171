//! Puts together the root file system that a guest boots with, and the job list for its init (see `guest/init`).

use crate::cpio::Archive;
use crate::elf;
use anyhow::{Context, Result, bail};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// How init runs the jobs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// One program on the host's stdin; its status is the run's.
    Single,
    /// Jobs that are reported to the host one by one; each has a directory `/tmp/NAME` of its own, no input, and marked
    /// output (see [`crate::batch`]).
    Batch,
}

/// One program run by init.
#[derive(Clone, Debug)]
pub struct Job {
    /// Its name: one word.
    pub name: String,
    /// Its arguments; the first is the path of the program in the guest, and `argv[0]`.
    pub argv: Vec<String>,
}

impl Job {
    /// A job from its name and arguments.
    pub fn new(name: impl Into<String>, argv: &[&str]) -> Job {
        Job { name: name.into(), argv: argv.iter().map(|&a| a.to_owned()).collect() }
    }
}

/// The environment that every job gets.
pub const ENVIRONMENT: &[&str] = &["PATH=/bin:/usr/bin:/sbin:/usr/sbin", "HOME=/root"];

/// A root file system under construction.
pub struct Image {
    archive: Archive,
    environment: Vec<String>,
}

impl Image {
    /// The directories that every system has, and init.
    ///
    /// # Errors
    /// init cannot be read.
    pub fn new(init: &Path) -> Result<Image> {
        let mut archive = Archive::new();
        for name in ["/bin", "/dev", "/etc", "/proc", "/sys", "/usr/bin", "/run", "/var"] {
            archive.directory(name, 0o755);
        }
        archive.directory("/root", 0o700);
        archive.directory("/tmp", 0o1777);
        archive.file("/init", 0o755, &read(init)?);
        archive.file("/etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\n");
        archive.file("/etc/group", 0o644, b"root:x:0:\n");
        Ok(Image { archive, environment: ENVIRONMENT.iter().map(|&v| v.to_owned()).collect() })
    }

    /// Adds a `NAME=value` to the environment of the jobs.
    pub fn variable(&mut self, text: String) {
        self.environment.push(text);
    }

    /// Adds an executable at `path` in the guest, from a file of the host.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn executable(&mut self, path: &str, from: &Path) -> Result<()> {
        let data = read(from)?;
        self.archive.file(path, 0o755, &data);
        Ok(())
    }

    /// Adds any file at `path` in the guest.
    pub fn file(&mut self, path: &str, mode: u32, data: &[u8]) {
        self.archive.file(path, mode, data);
    }

    /// Adds a symbolic link at `path` in the guest.
    pub fn symlink(&mut self, path: &str, target: &str) {
        self.archive.symlink(path, target);
    }

    /// Adds a program of the host at its own absolute path, with the interpreter and the libraries that it needs. Returns
    /// that path.
    ///
    /// # Errors
    /// It is not an executable ELF file for x86-64, or something that it needs cannot be found.
    pub fn host_program(&mut self, program: &Path) -> Result<String> {
        let absolute = std::path::absolute(program)?;
        let meta =
            std::fs::metadata(&absolute).with_context(|| format!("cannot run {}", program.display()))?;
        if !meta.is_file() || meta.permissions().mode() & 0o111 == 0 {
            bail!("{} is not an executable file", program.display());
        }
        let companions = elf::companions(&absolute)
            .with_context(|| format!("cannot run {} in the guest", program.display()))?;
        for file in std::iter::once(&absolute).chain(&companions) {
            self.executable(utf8(file)?, file)?;
        }
        Ok(utf8(&absolute)?.to_owned())
    }

    /// Adds everything below a folder of the host at the root of the guest.
    ///
    /// # Errors
    /// Something in it cannot be read.
    pub fn host_folder(&mut self, folder: &Path) -> Result<()> {
        self.host_folder_at(folder, "")
    }

    fn host_folder_at(&mut self, folder: &Path, at: &str) -> Result<()> {
        let entries =
            std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
        let mut entries = entries.collect::<Result<Vec<_>, _>>()?;
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let path = format!("{at}/{}", utf8(Path::new(&entry.file_name()))?);
            let meta = entry.path().symlink_metadata()?;
            let mode = meta.permissions().mode() & 0o7777;
            if meta.is_dir() {
                self.archive.directory(&path, mode);
                self.host_folder_at(&entry.path(), &path)?;
            } else if meta.is_symlink() {
                self.archive.symlink(&path, utf8(&std::fs::read_link(entry.path())?)?);
            } else if meta.is_file() {
                self.archive.file(&path, mode, &read(&entry.path())?);
            } else {
                log::warn!(
                    "{}: left out, it is neither file, directory nor symbolic link",
                    entry.path().display()
                );
            }
        }
        Ok(())
    }

    /// The finished archive, with the job list.
    pub fn finish(mut self, mode: Mode, jobs: &[Job]) -> Vec<u8> {
        let mode = match mode {
            Mode::Single => "single",
            Mode::Batch => "batch",
        };
        let mut list = Vec::new();
        let mut string = |text: &str| {
            list.extend_from_slice(text.as_bytes());
            list.push(0);
        };
        string(mode);
        for job in jobs {
            string(&job.name);
            string(&job.argv.len().to_string());
            job.argv.iter().for_each(|a| string(a));
        }
        self.archive.file("/etc/ptshare/jobs", 0o644, &list);
        let environment: String = self.environment.iter().map(|v| format!("{v}\0")).collect();
        self.archive.file("/etc/ptshare/env", 0o644, environment.as_bytes());
        self.archive.file("/etc/ptshare/cwd", 0o644, b"/\0");
        self.archive.finish()
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

fn utf8(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{}: the path is not UTF-8", path.display()))
}
