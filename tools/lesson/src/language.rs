//! English and Korean. Every message stands in both languages side by side.

use std::env;

use clap::ValueEnum;

/// A message that is known when the tool is compiled: English, then Korean.
pub type Words = [&'static str; 2];

/// The language of all messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Language {
    #[value(name = "en")]
    English,
    #[value(name = "ko")]
    Korean,
}

/// A message in both languages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    pub en: String,
    pub ko: String,
}

/// Makes a [`Text`] of two format strings: English, then Korean.
macro_rules! text {
    ($en:literal, $ko:literal $(,)?) => {
        $crate::language::Text { en: format!($en), ko: format!($ko) }
    };
}
pub(crate) use text;

/// The reason of an error that cargo has explained on the terminal.
pub const ALREADY_EXPLAINED: Text = Text { en: String::new(), ko: String::new() };

impl Language {
    /// The language of the locale.
    pub fn of_locale() -> Self {
        let names = ["LC_ALL", "LC_MESSAGES", "LANG"];
        let locale = names.iter().filter_map(|name| env::var(name).ok()).find(|value| !value.is_empty());
        if locale.is_some_and(|locale| locale.starts_with("ko")) { Self::Korean } else { Self::English }
    }

    pub fn pick(self, words: Words) -> &'static str {
        let [en, ko] = words;
        if self == Self::Korean { ko } else { en }
    }
}

impl Text {
    /// A text that needs no translation, such as a packet.
    pub fn same(text: impl Into<String>) -> Self {
        let en = text.into();
        Self { ko: en.clone(), en }
    }

    pub fn in_language(&self, language: Language) -> &str {
        if language == Language::Korean { &self.ko } else { &self.en }
    }
}

impl From<Words> for Text {
    fn from([en, ko]: Words) -> Self {
        Self { en: en.to_owned(), ko: ko.to_owned() }
    }
}
