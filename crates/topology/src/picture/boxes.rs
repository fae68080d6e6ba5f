//! The box of a function: its texts, its ACS indicators and its badges.

use super::measure::{self};
use super::scene::{AcsIndicator, AcsState, Node};
use super::shapes::{Rect, Tag, Text, plain, tag};
use super::style::{ADDRESS, BADGE, INDICATOR, KIND, NAME, PALETTE, PILL};

/// The padding inside a box, left and right.
pub(super) const INSET: i32 = 10;

/// Width and height of an ACS indicator.
pub(super) const INDICATOR_BOX: (i32, i32) = (24, 15);

/// The gap between two indicators.
const INDICATOR_GAP: i32 = 3;

/// A function.
pub(super) struct NodeBox {
    /// Index into [`Scene::nodes`](super::scene::Scene::nodes).
    pub(super) node: usize,
    pub(super) rect: Rect,
    pub(super) texts: Vec<Text>,
    pub(super) tags: Vec<Tag>,
}

pub(super) fn indicator_tag(indicator: AcsIndicator, x: i32, y: i32) -> Tag {
    let state = match indicator.state {
        AcsState::On => "on",
        AcsState::Off | AcsState::None => "off",
        AcsState::NotImplemented => "absent",
        AcsState::Quirk => "quirk",
    };
    let assumed = if indicator.assumed { " assumed" } else { "" };
    tag(
        Rect::new(x, y, INDICATOR_BOX.0, INDICATOR_BOX.1),
        format!("lamp {state}{assumed}"),
        indicator.name,
        INDICATOR,
    )
}

/// One function: address, kind and group above, name and ACS indicators or badges below.
pub(super) fn node_box(index: usize, node: &Node, rect: Rect, colour: Option<usize>) -> NodeBox {
    let (mut texts, mut tags) = (Vec::new(), Vec::new());
    let (first, second) = (rect.y + 3, rect.y + 23);
    let number = node.group.map_or_else(|| "–".to_owned(), |group| group.to_string());
    #[expect(clippy::cast_possible_wrap, reason = "a few pixels")]
    let pill = (measure::width(&number, PILL) as i32 + 12).max(26);
    let class =
        colour.map_or_else(|| "pill".to_owned(), |colour| format!("pill c{}", colour % PALETTE));
    tags.push(tag(Rect::new(rect.right() - 6 - pill, first + 2, pill, 16), class, &number, PILL));
    let address = plain(rect.x + INSET, first, 20, &node.address, ADDRESS);
    let kind_at = address.room.right() + 9;
    let kind =
        measure::fitted(&node.kind, KIND, (rect.right() - 6 - pill - 8 - kind_at).unsigned_abs());
    texts.extend([address, plain(kind_at, first, 20, &kind, KIND)]);

    let mut right = rect.right() - 6;
    let below = second + 1;
    match node.indicators {
        Some(indicators)
            if indicators.iter().all(|indicator| indicator.state == AcsState::None) =>
        {
            let assumed = if indicators[0].assumed { " assumed" } else { "" };
            let w = 2 * INDICATOR_BOX.0 + INDICATOR_GAP;
            right -= w;
            tags.push(tag(
                Rect::new(right, below, w, INDICATOR_BOX.1),
                format!("lamp off{assumed}"),
                "no ACS",
                INDICATOR,
            ));
        }
        Some(indicators) => {
            for indicator in indicators.into_iter().rev() {
                right -= INDICATOR_BOX.0;
                tags.push(indicator_tag(indicator, right, below));
                right -= INDICATOR_GAP;
            }
        }
        None => {}
    }
    for badge in node.badges.iter().rev() {
        #[expect(clippy::cast_possible_wrap, reason = "a few pixels")]
        let w = measure::width(badge, BADGE) as i32 + 8;
        right -= w;
        tags.push(tag(
            Rect::new(right, below, w, INDICATOR_BOX.1),
            "badge".to_owned(),
            badge,
            BADGE,
        ));
        right -= INDICATOR_GAP;
    }
    let room = (right - 6 - rect.x - INSET).max(40).unsigned_abs();
    texts.push(plain(rect.x + INSET, second, 18, &measure::fitted(&node.short, NAME, room), NAME));
    NodeBox { node: index, rect, texts, tags }
}
