//! Rectangles and texts with their places.

use super::measure::{self, Face};

/// A rectangle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rect {
    pub(super) x: i32,
    pub(super) y: i32,
    pub(super) w: i32,
    pub(super) h: i32,
}

impl Rect {
    pub(super) const fn new(x: i32, y: i32, w: i32, h: i32) -> Self {
        Self { x, y, w, h }
    }

    pub(super) const fn right(self) -> i32 {
        self.x + self.w
    }

    pub(super) const fn bottom(self) -> i32 {
        self.y + self.h
    }

    /// Larger by `by` on each side.
    pub(super) const fn grown(self, by: i32) -> Self {
        Self { x: self.x - by, y: self.y - by, w: self.w + 2 * by, h: self.h + 2 * by }
    }

    pub(super) fn hull(self, other: Self) -> Self {
        let (x, y) = (self.x.min(other.x), self.y.min(other.y));
        Self {
            x,
            y,
            w: self.right().max(other.right()) - x,
            h: self.bottom().max(other.bottom()) - y,
        }
    }
}

/// A text, and the room that it takes at most.
#[derive(Debug, Clone)]
pub(super) struct Text {
    /// The room; the baseline is three quarters down.
    pub(super) room: Rect,
    pub(super) text: String,
    pub(super) face: Face,
    /// Whether it is centred in its room.
    pub(super) centred: bool,
}

/// A small rectangle with a text in it, such as an ACS indicator.
#[derive(Debug, Clone)]
pub(super) struct Tag {
    pub(super) rect: Rect,
    /// Classes of the rectangle.
    pub(super) class: String,
    pub(super) text: Text,
}

/// A text whose room is as wide as it.
#[expect(clippy::cast_possible_wrap, reason = "a few hundred pixels")]
pub(super) fn plain(x: i32, y: i32, h: i32, text: &str, face: Face) -> Text {
    let w = measure::width(text, face) as i32;
    Text { room: Rect::new(x, y, w, h), text: text.to_owned(), face, centred: false }
}

/// A rectangle with a text in its middle.
pub(super) fn tag(rect: Rect, class: String, text: &str, face: Face) -> Tag {
    Tag { rect, class, text: Text { room: rect, text: text.to_owned(), face, centred: true } }
}
