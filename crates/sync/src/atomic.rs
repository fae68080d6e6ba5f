//! Atomic types, fences and memory orderings.
//!
//! The types wrap those of std, or of loom under `--cfg loom`, so that a lint can tell them from
//! std's.

#[cfg(loom)]
use loom::sync::atomic as imp;
#[cfg(not(loom))]
use std::sync::atomic as imp;

pub use imp::{Ordering, fence};

macro_rules! wrap {
    ($(
        $(#[$doc:meta])*
        $name:ident($value:ty) {
            $($method:ident($($arg:ident: $kind:ty),*) -> $result:ty;)*
        }
    )*) => {$(
        $(#[$doc])*
        #[derive(Debug, Default)]
        pub struct $name(imp::$name);

        impl $name {
            /// Wraps `value`.
            #[cfg(not(loom))]
            pub const fn new(value: $value) -> Self {
                Self(imp::$name::new(value))
            }

            /// Wraps `value`.
            #[cfg(loom)]
            pub fn new(value: $value) -> Self {
                Self(imp::$name::new(value))
            }

            $(
                /// Does what the method of this name of std's type does.
                // Without `inline` other crates would call a function that matches on the ordering
                // at run time.
                #[inline]
                pub fn $method(&self, $($arg: $kind),*) -> $result {
                    self.0.$method($($arg),*)
                }
            )*
        }
    )*};
}

macro_rules! wrap_integer {
    ($($(#[$doc:meta])* $name:ident($value:ty))*) => {
        wrap! {$(
            $(#[$doc])*
            $name($value) {
                load(order: Ordering) -> $value;
                store(value: $value, order: Ordering) -> ();
                swap(value: $value, order: Ordering) -> $value;
                fetch_add(value: $value, order: Ordering) -> $value;
                fetch_sub(value: $value, order: Ordering) -> $value;
                fetch_or(value: $value, order: Ordering) -> $value;
                fetch_and(value: $value, order: Ordering) -> $value;
                compare_exchange(
                    current: $value, new: $value, success: Ordering, failure: Ordering
                ) -> Result<$value, $value>;
                compare_exchange_weak(
                    current: $value, new: $value, success: Ordering, failure: Ordering
                ) -> Result<$value, $value>;
            }
        )*}
    };
}

wrap! {
    /// An atomic flag.
    AtomicBool(bool) {
        load(order: Ordering) -> bool;
        store(value: bool, order: Ordering) -> ();
        swap(value: bool, order: Ordering) -> bool;
        compare_exchange(
            current: bool, new: bool, success: Ordering, failure: Ordering
        ) -> Result<bool, bool>;
    }
}

wrap_integer! {
    /// An atomic 8-bit integer.
    AtomicU8(u8)
    /// An atomic 32-bit integer.
    AtomicU32(u32)
    /// An atomic 64-bit integer.
    AtomicU64(u64)
    /// An atomic integer of pointer size.
    AtomicUsize(usize)
}
