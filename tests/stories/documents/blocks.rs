//! The blocks of a document, with the directives in the comments before them.

/// A fenced block, or a comment that is a directive.
pub struct Block {
    /// The line of its fence, counted from 1.
    pub line: usize,
    pub action: Action,
    pub text: Vec<String>,
    /// Whether it shows commands: by its language or its prompts.
    pub has_commands: bool,
}

/// The action for a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Its commands run in this terminal, and its other lines are the expected output.
    Terminal(String),
    /// Its text is typed into this terminal.
    Type(String),
    /// Ctrl-C in this terminal.
    Stop(String),
    /// All programs are stopped, and the database is removed.
    Fresh,
    /// It does not run, for this reason.
    NotRun(String),
    /// The block shows no command and has no terminal.
    Shown,
}

/// The terminal of blocks that do not name one.
pub const FIRST_TERMINAL: &str = "first";

impl Block {
    /// Whether one of its commands runs this program.
    pub fn runs_program(&self, program: &str) -> bool {
        let runs = matches!(self.action, Action::Terminal(_));
        let is_word = |character: char| character.is_alphanumeric() || "-_./".contains(character);
        runs && self
            .commands()
            .any(|command| command.split(|character| !is_word(character)).any(|word| word == program))
    }

    /// Its commands, without their prompts.
    pub fn commands(&self) -> impl Iterator<Item = &str> {
        self.text.iter().filter_map(|line| line.strip_prefix("$ "))
    }
}

/// All blocks of a document, in order.
pub fn blocks_of(markdown: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut comment = None;
    let mut lines = markdown.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        if let Some(order) = line.trim().strip_prefix("<!--").and_then(|rest| rest.strip_suffix("-->")) {
            match parse_action(order.trim()) {
                Some(action @ (Action::Stop(_) | Action::Fresh)) => {
                    blocks.push(Block { line: number + 1, action, text: Vec::new(), has_commands: false });
                }
                action => comment = action.or(comment),
            }
        } else if let Some(language) = line.trim_start().strip_prefix("```") {
            let text: Vec<String> = lines
                .by_ref()
                .map(|(_, line)| line)
                .take_while(|line| line.trim_start() != "```")
                .map(str::to_owned)
                .collect();
            let text = if language == "sh" || language == "bash" { with_prompts(&text) } else { text };
            let has_commands = text.iter().any(|line| line.starts_with("$ "));
            let unmarked =
                if has_commands { Action::Terminal(FIRST_TERMINAL.to_owned()) } else { Action::Shown };
            blocks.push(Block {
                line: number + 1,
                action: comment.take().unwrap_or(unmarked),
                text,
                has_commands,
            });
        } else if !line.trim().is_empty() {
            comment = None;
        }
    }
    blocks
}

/// A block in the shell language has only commands. It is one command, since it may have loops and functions.
fn with_prompts(text: &[String]) -> Vec<String> {
    vec![format!("$ {}", text.join("\n"))]
}

fn parse_action(order: &str) -> Option<Action> {
    if order == "fresh" {
        return Some(Action::Fresh);
    }
    let (word, rest) = order.split_once(':')?;
    let rest = rest.trim().to_owned();
    match word {
        "terminal" => Some(Action::Terminal(rest)),
        "type" => Some(Action::Type(rest)),
        "stop" => Some(Action::Stop(rest)),
        "not run" => Some(Action::NotRun(rest)),
        _ => None,
    }
}
