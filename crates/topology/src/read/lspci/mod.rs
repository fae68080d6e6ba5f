//! Text of `lspci`, as people save and send it.
//!
//! A function begins at a line with an address and a class; what follows up to the next such line
//! is its body. Mail programs break lines at spaces and lose indentation, so the body is read as a
//! row of words in which fields are known by their keys (`ACSCap:`, `Bus:`), not by lines and
//! columns. Rejected: a grammar of indented lines; most dumps that people send have lost theirs.
//! Bytes in hexadecimal (`-x`) are decoded too and win over the text.
//!
//! One text may list a machine several times (`lspci` and then `lspci -vvv`): later lists fill in
//! what earlier ones do not say.

mod body;
mod head;
mod lines;
mod merge;

use std::collections::{HashMap, hash_map};

use sva_core::Bdf;

use crate::machine::{FunctionReading, ListState, Reading, limit};
use crate::read::config;
use crate::read::error::ReadError;

use body::Missing;
use lines::Line;

/// Reads the functions of a text.
pub(super) fn parse(text: &[u8]) -> Result<Reading, ReadError> {
    let text = lines::decoded(text);
    let text = String::from_utf8_lossy(&text);
    let mut found = Found::default();
    let mut open: Option<Entry<'_>> = None;
    let mut last = Line { number: 1, column: 1, text: "" };
    for line in lines::lines(&text) {
        if let Some((bdf, rest)) = head::begin(line.text) {
            found.close(open.take());
            if found.reading.functions.len() == limit::FUNCTIONS {
                return Err(ReadError::TooManyFunctions { line: line.number, column: line.column });
            }
            open = Some(Entry::new(bdf, rest, line.text.len()));
        } else if let Some(entry) = &mut open
            && !entry.take(line)
        {
            found.close(open.take());
        }
        last = line;
    }
    if let Some(entry) = &mut open {
        if entry.missing == Missing::Nothing && entry.ends_inside(last.text) {
            entry.missing = Missing::End;
        }
        found.reading.truncated = entry.missing != Missing::Nothing;
    }
    found.close(open);
    let mut reading = found.reading;
    if reading.functions.is_empty() {
        return Err(ReadError::NoFunctions {
            line: last.number,
            column: last.column + last.text.len(),
        });
    }
    reading.lists_groups = reading.functions.iter().any(|function| function.kernel_group.is_some());
    Ok(reading)
}

/// The functions so far.
#[derive(Default)]
struct Found {
    reading: Reading,
    places: HashMap<Bdf, usize>,
}

impl Found {
    fn close(&mut self, entry: Option<Entry<'_>>) {
        let Some(function) = entry.map(Entry::finish) else { return };
        match self.places.entry(function.bdf) {
            hash_map::Entry::Vacant(place) => {
                place.insert(self.reading.functions.len());
                self.reading.functions.push(function);
            }
            hash_map::Entry::Occupied(place) => {
                if let Some(first) = self.reading.functions.get_mut(*place.get()) {
                    merge::fill(first, function);
                }
            }
        }
    }
}

/// A function whose lines are being gathered.
struct Entry<'t> {
    bdf: Bdf,
    title: Vec<&'t str>,
    words: Vec<&'t str>,
    bytes: Vec<u8>,
    /// Whether the title may go on in the next line.
    titled: bool,
    /// Whether the line before was blank.
    blank: bool,
    missing: Missing,
}

/// Shorter first lines, in bytes, are not wrapped.
const WRAPPED: usize = 50;

impl<'t> Entry<'t> {
    fn new(bdf: Bdf, rest: &'t str, length: usize) -> Self {
        let titled = length < WRAPPED;
        Self {
            bdf,
            title: vec![rest],
            words: Vec::new(),
            bytes: Vec::new(),
            titled,
            blank: false,
            missing: Missing::Nothing,
        }
    }

    /// Adds a line; false where the function has ended before it.
    fn take(&mut self, line: Line<'t>) -> bool {
        if line.text.is_empty() {
            (self.blank, self.titled) = (true, true);
            return true;
        }
        if let Some((offset, bytes)) = lines::hex(line.text) {
            // In order and without gaps; another dump that follows in the same mail is not this
            // function's.
            if offset == self.bytes.len() {
                self.bytes.extend(bytes);
            }
            self.titled = true;
            return true;
        }
        if self.blank && !body::continues_body(line.text) {
            return false;
        }
        self.blank = false;
        self.titled |= body::begins_body(line.text);
        if self.titled {
            if lines::marks_omission(line.text) {
                self.missing = Missing::Part;
            }
            self.words.extend(line.text.split_whitespace());
        } else {
            self.title.push(line.text);
        }
        true
    }

    /// Whether the text seems to end inside this function, `last` being its last line: `lspci` ends
    /// with a blank line after a verbose description, and the drivers come last in it. A text
    /// that was only trimmed is taken for a cut one where no drivers are there to tell.
    fn ends_inside(&self, last: &str) -> bool {
        !last.is_empty()
            && !self.words.is_empty()
            && self.bytes.is_empty()
            && !last.starts_with("Kernel ")
    }

    fn finish(self) -> FunctionReading {
        let mut function = FunctionReading::at(self.bdf);
        head::title(&self.title.join(" "), &mut function);
        body::read(&self.words, self.missing, &mut function);
        if !self.bytes.is_empty()
            && !config::decode(&self.bytes, &mut function)
            && function.capabilities == ListState::NotPrinted
        {
            function.capabilities = ListState::Hidden;
            function.extended = ListState::Hidden;
        }
        function
    }
}
