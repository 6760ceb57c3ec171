//! What a host program needs beside itself: its interpreter and its shared libraries.

use anyhow::{Context, Result, bail};
use object::read::elf::{Dyn, FileHeader, ProgramHeader};
use object::{Endianness, elf};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Where the dynamic loader of common distributions looks when nothing else is said.
const LIBRARY_DIRS: &[&str] = &[
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib64",
    "/usr/lib64",
    "/lib",
    "/usr/lib",
    "/usr/local/lib",
];

/// What an ELF file says about its surroundings.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// PT_INTERP.
    pub interpreter: Option<String>,
    /// DT_NEEDED, in order.
    pub libraries: Vec<String>,
    /// DT_RUNPATH or DT_RPATH, split at colons, `$ORIGIN` not yet replaced.
    pub run_path: Vec<String>,
}

/// Reads what an ELF file needs.
///
/// # Errors
/// The bytes are not a well-formed ELF file for x86-64.
pub fn needs(data: &[u8]) -> Result<Needs> {
    let header = elf::FileHeader64::<Endianness>::parse(data)?;
    let endian = header.endian()?;
    if header.e_machine(endian) != elf::EM_X86_64 {
        bail!("it is not for x86-64");
    }
    let mut found = Needs::default();
    let segments = header.program_headers(endian, data)?;
    for segment in segments {
        if let Some(name) = segment.interpreter(endian, data)? {
            found.interpreter = Some(String::from_utf8_lossy(name).into_owned());
        }
        let Some(dynamic) = segment.dynamic(endian, data)? else { continue };
        let mut strings = (0u64, 0u64);
        for entry in dynamic {
            match entry.d_tag(endian) {
                elf::DT_STRTAB => strings.0 = entry.d_val(endian),
                elf::DT_STRSZ => strings.1 = entry.d_val(endian),
                _ => {}
            }
        }
        let table = segments
            .iter()
            .find_map(|s| s.data_range(endian, data, strings.0, strings.1).ok().flatten())
            .unwrap_or_default();
        let string = |at: u64| {
            let rest = usize::try_from(at).ok().and_then(|at| table.get(at..)).unwrap_or_default();
            String::from_utf8_lossy(rest.split(|&b| b == 0).next().unwrap_or_default()).into_owned()
        };
        for entry in dynamic {
            match entry.d_tag(endian) {
                elf::DT_NEEDED => found.libraries.push(string(entry.d_val(endian))),
                elf::DT_RUNPATH | elf::DT_RPATH => {
                    found.run_path.extend(string(entry.d_val(endian)).split(':').map(str::to_owned));
                }
                _ => {}
            }
        }
    }
    Ok(found)
}

/// The files besides `program` itself that it needs to start: interpreter and libraries, recursively.
///
/// # Errors
/// A file is not a readable ELF file, or a library is in no directory that the loader would look into.
pub fn companions(program: &Path) -> Result<Vec<PathBuf>> {
    let mut found = BTreeSet::new();
    let mut open = vec![program.to_path_buf()];
    while let Some(path) = open.pop() {
        let data = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let needs = needs(&data).with_context(|| format!("{} is not a usable ELF file", path.display()))?;
        if let Some(interpreter) = needs.interpreter.map(PathBuf::from)
            && found.insert(interpreter.clone())
        {
            open.push(interpreter);
        }
        let origin = path.parent().unwrap_or(Path::new("/")).to_path_buf();
        for library in &needs.libraries {
            let dirs = needs
                .run_path
                .iter()
                .map(|dir| PathBuf::from(dir.replace("$ORIGIN", &origin.to_string_lossy())))
                .chain(LIBRARY_DIRS.iter().map(PathBuf::from));
            let Some(file) = dirs.map(|dir| dir.join(library)).find(|file| file.is_file()) else {
                bail!("{} needs the library {library}, which is in none of the usual places", path.display());
            };
            if found.insert(file.clone()) {
                open.push(file);
            }
        }
    }
    Ok(found.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dynamic_program_brings_its_loader_and_libc() {
        let shell = Path::new("/bin/sh");
        let data = std::fs::read(shell).unwrap();
        if needs(&data).unwrap().interpreter.is_none() {
            eprintln!("SKIP: /bin/sh of this machine is static");
            return;
        }
        let names: Vec<String> = companions(shell).unwrap().iter().map(|p| p.display().to_string()).collect();
        assert!(names.iter().any(|n| n.contains("ld-")), "{names:?}");
        assert!(names.iter().any(|n| n.contains("libc")), "{names:?}");
    }

    #[test]
    fn text_is_refused() {
        assert!(needs(b"#!/bin/sh\n").is_err());
        assert!(needs(&[]).is_err());
    }
}
