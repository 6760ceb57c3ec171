//! Everything that execve(2) must refuse, and scripts that it must not.

use ptshare_programs::{check, errno, errno_name, process};
use std::ffi::CString;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

fn exec(path: &str, arguments: &[&str]) -> String {
    let status = process::in_child(|| {
        let strings: Vec<CString> = std::iter::once(path)
            .chain(arguments.iter().copied())
            .map(|text| CString::new(text).unwrap_or_default())
            .collect();
        let mut pointers: Vec<_> = strings.iter().map(|s| s.as_ptr()).collect();
        pointers.push(std::ptr::null());
        // SAFETY: NUL-terminated strings in a NULL-terminated vector; an empty environment.
        unsafe { libc::execve(pointers[0], pointers.as_ptr(), [std::ptr::null()].as_ptr()) };
        println!("{}", errno_name(errno()));
        200
    });
    status.to_string()
}

fn file(folder: &std::path::Path, name: &str, mode: u32, bytes: &[u8]) -> String {
    let path = folder.join(name);
    check!(std::fs::write(&path, bytes).is_ok(), "{} cannot be written", path.display());
    let _ = std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode));
    path.to_string_lossy().into_owned()
}

fn main() {
    if std::env::args().nth(1).as_deref() == Some("answer") {
        process::leave(std::env::args().count() as i32);
    }
    let folder: PathBuf = std::env::temp_dir().join(format!("ptshare-exec-{}", std::process::id()));
    check!(std::fs::create_dir_all(&folder).is_ok(), "{} cannot be made", folder.display());
    let own = std::fs::read(std::env::current_exe().unwrap_or_default()).unwrap_or_default();
    check!(own.len() > 4096, "this program cannot be read");
    let changed = |at: usize, byte: u8| {
        let mut copy = own.clone();
        copy[at] = byte;
        copy
    };
    let me = std::env::current_exe().unwrap_or_default().to_string_lossy().into_owned();
    let in_folder = |name: &str| folder.join(name).to_string_lossy().into_owned();
    let _ = std::os::unix::fs::symlink("loop", folder.join("loop"));

    println!("a copy of this program: {}", exec(&file(&folder, "copy", 0o755, &own), &["answer"]));
    println!("missing: {}", exec(&in_folder("missing"), &["answer"]));
    println!("a folder: {}", exec(&folder.to_string_lossy(), &["answer"]));
    println!("below a file: {}", exec(&in_folder("copy/x"), &["answer"]));
    println!("a loop of links: {}", exec(&in_folder("loop"), &["answer"]));
    println!("a long name: {}", exec(&format!("/{}", "x".repeat(300)), &["answer"]));
    println!("not executable: {}", exec(&file(&folder, "plain", 0o644, &own), &["answer"]));
    println!("empty: {}", exec(&file(&folder, "empty", 0o755, b""), &["answer"]));
    println!("text: {}", exec(&file(&folder, "text", 0o755, b"echo hello\n"), &["answer"]));
    println!("another machine: {}", exec(&file(&folder, "machine", 0o755, &changed(18, 40)), &["answer"]));
    println!("32-bit: {}", exec(&file(&folder, "class", 0o755, &changed(4, 1)), &["answer"]));
    println!("an object file: {}", exec(&file(&folder, "object", 0o755, &changed(16, 1)), &["answer"]));
    println!("only a header: {}", exec(&file(&folder, "header", 0o755, &own[..64]), &["answer"]));
    println!("half a header: {}", exec(&file(&folder, "half", 0o755, &own[..40]), &["answer"]));
    println!(
        "wrong size of program headers: {}",
        exec(&file(&folder, "phentsize", 0o755, &changed(54, 57)), &["answer"])
    );
    println!(
        "a script: {}",
        exec(&file(&folder, "script", 0o755, format!("#!{me} answer\n").as_bytes()), &["b", "c"])
    );
    println!(
        "a script for a script: {}",
        exec(
            &file(&folder, "nested", 0o755, format!("#!{} x\n", in_folder("script")).as_bytes()),
            &["answer"]
        )
    );
    println!(
        "a script for nobody: {}",
        exec(&file(&folder, "nobody", 0o755, b"#!/no/such/file\n"), &["answer"])
    );
    println!("a script without a name: {}", exec(&file(&folder, "noname", 0o755, b"#!\n"), &["answer"]));
    println!("a script for itself: {}", {
        let path = in_folder("itself");
        exec(&file(&folder, "itself", 0o755, format!("#!{path}\n").as_bytes()), &["answer"])
    });
    let long = "y".repeat(140_000);
    println!("a long argument: {}", exec(&me, &[&long]));
    println!("many arguments: {}", exec(&me, &["answer"; 100]));
    let _ = std::fs::remove_dir_all(&folder);
    println!("done");
}
