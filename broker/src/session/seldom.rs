//! A field that most owners never need.
//!
//! It takes a pointer's room until it is changed for the first time, and reads as an empty value till then. What is set back to
//! the default gives its memory back.

use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};

use foldhash::fast::FixedState;
use hashbrown::HashMap;

/// A value in a box that is made when it is first needed.
#[derive(Debug)]
pub struct Seldom<T>(Option<Box<T>>);

/// What an empty one reads as.
pub trait Nothing: Default + 'static {
    const NOTHING: &'static Self;
}

impl<T> Seldom<T> {
    /// It owns nothing, and so it is empty: known without a look behind the pointer.
    #[inline]
    pub fn is_nothing(&self) -> bool {
        self.0.is_none()
    }
}

impl<T> Default for Seldom<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> From<T> for Seldom<T> {
    fn from(value: T) -> Self {
        Self(Some(Box::new(value)))
    }
}

impl<T: Nothing> Deref for Seldom<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        self.0.as_deref().unwrap_or(T::NOTHING)
    }
}

impl<T: Nothing> DerefMut for Seldom<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        self.0.get_or_insert_default()
    }
}

impl<T: 'static> Nothing for Vec<T> {
    const NOTHING: &'static Self = &Self::new();
}

impl<T: 'static> Nothing for VecDeque<T> {
    const NOTHING: &'static Self = &Self::new();
}

impl<K: 'static, V: 'static> Nothing for HashMap<K, V, FixedState> {
    const NOTHING: &'static Self = &Self::with_hasher(FixedState::with_seed(0));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_owned_before_it_is_needed_and_after_it_is_given_back() {
        let mut list: Seldom<Vec<u8>> = Seldom::default();
        assert!(list.is_empty() && list.is_nothing());
        list.push(1);
        assert_eq!(*list, [1]);
        assert!(!list.is_nothing());
        list = Seldom::default();
        assert!(list.is_empty() && list.is_nothing());
        assert_eq!(size_of_val(&list), size_of::<usize>());
    }
}
