//! The smallest useful program: prints its arguments and what every program can rely on.

fn main() {
    println!("hello from a Linux program");
    for argument in std::env::args().skip(1) {
        println!("argument: {argument}");
    }
    println!("PATH is {}set", if std::env::var_os("PATH").is_some() { "" } else { "not " });
}
