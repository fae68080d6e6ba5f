//! Runs the command on a terminal.

use std::fs::File;
use std::io::Read;
use std::process::Command;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// What a command prints on a terminal of so many columns, to its end. A terminal's line ends are
/// plain ones here.
pub(crate) fn on_terminal(columns: u16, command: &mut Command) -> String {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pseudoterminal");
    grantpt(&ours).expect("it is ours");
    unlockpt(&ours).expect("it can be opened");
    let path = ptsname(&ours, Vec::new()).expect("it has a name");
    let path = path.into_string().expect("a path in ASCII");
    let theirs = File::options().read(true).write(true).open(path).expect("the other side");
    let size = Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&theirs, size).expect("it has a size");
    let mut child = command
        .env("TERM", "xterm")
        .env_remove("COLUMNS")
        .env_remove("CLICOLOR")
        .stdout(theirs.try_clone().expect("a second handle"))
        .spawn()
        .expect("the command starts");
    let mut ours = File::from(ours);
    let reader = std::thread::spawn(move || {
        let (mut text, mut buffer) = (Vec::new(), [0; 4096]);
        // Linux ends with an error where the other side is closed.
        while let Ok(length @ 1..) = ours.read(&mut buffer) {
            text.extend_from_slice(&buffer[..length]);
        }
        text
    });
    let _ = super::wait(&mut child);
    // The command's own handles, and then the last one, here.
    command.stdout(std::process::Stdio::null());
    drop(theirs);
    let text = reader.join().expect("no panic");
    String::from_utf8(text).expect("text").replace("\r\n", "\n")
}
