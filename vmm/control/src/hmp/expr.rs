//! Integer expressions: numbers (also `0x`), `$register`, `+ - * / % & | ^ ~`, parentheses; all in 64 bits, wrapping.

use super::{Context, failed};
use crate::value::parse_number;
use crate::vm::VmError;

/// Deepest nesting of parentheses and signs.
const MAX_DEPTH: usize = 64;

struct Parser<'a, 'c> {
    rest: &'a str,
    context: &'a Context<'c>,
}

/// Evaluates the expression at the start of `text`; returns what follows it, too.
pub(super) fn eval<'a>(context: &'a Context<'_>, text: &'a str) -> Result<(u64, &'a str), VmError> {
    let mut p = Parser { rest: text, context };
    let value = p.or(0)?;
    Ok((value, p.rest.trim_start()))
}

/// The same, and nothing may follow.
pub(super) fn eval_all(context: &Context<'_>, text: &str) -> Result<u64, VmError> {
    match eval(context, text)? {
        (value, "") => Ok(value),
        (_, rest) => failed(format!("expected the end of the expression at '{}'", rest.escape_debug())),
    }
}

impl<'a> Parser<'a, '_> {
    fn eat(&mut self, operators: &[char]) -> Option<char> {
        let rest = self.rest.trim_start();
        let c = rest.chars().next().filter(|c| operators.contains(c))?;
        self.rest = &rest[c.len_utf8()..];
        Some(c)
    }

    fn or(&mut self, depth: usize) -> Result<u64, VmError> {
        let mut a = self.sum(depth)?;
        while let Some(c) = self.eat(&['&', '|', '^']) {
            let b = self.sum(depth)?;
            a = match c {
                '&' => a & b,
                '|' => a | b,
                _ => a ^ b,
            };
        }
        Ok(a)
    }

    fn sum(&mut self, depth: usize) -> Result<u64, VmError> {
        let mut a = self.product(depth)?;
        while let Some(c) = self.eat(&['+', '-']) {
            let b = self.product(depth)?;
            a = if c == '+' { a.wrapping_add(b) } else { a.wrapping_sub(b) };
        }
        Ok(a)
    }

    fn product(&mut self, depth: usize) -> Result<u64, VmError> {
        let mut a = self.unary(depth)?;
        while let Some(c) = self.eat(&['*', '/', '%']) {
            let b = self.unary(depth)?;
            if c != '*' && b == 0 {
                return failed("division by zero");
            }
            a = match c {
                '*' => a.wrapping_mul(b),
                '/' => a / b,
                _ => a % b,
            };
        }
        Ok(a)
    }

    fn unary(&mut self, depth: usize) -> Result<u64, VmError> {
        if depth > MAX_DEPTH {
            return failed("expression is nested too deeply");
        }
        match self.eat(&['-', '+', '~', '(', '$']) {
            Some('-') => Ok(self.unary(depth + 1)?.wrapping_neg()),
            Some('+') => self.unary(depth + 1),
            Some('~') => Ok(!self.unary(depth + 1)?),
            Some('(') => {
                let value = self.or(depth + 1)?;
                match self.eat(&[')']) {
                    Some(_) => Ok(value),
                    None => failed("expected ')'"),
                }
            }
            Some(_) => {
                let name = self.word();
                self.context.control.vm.register(self.context.cpu, name)
            }
            None => {
                self.rest = self.rest.trim_start();
                let word = self.word();
                match parse_number(word) {
                    Some(n) => Ok(n),
                    None if word.is_empty() => {
                        let found = self.rest.chars().next();
                        failed(found.map_or("expected a number".into(), |c| {
                            format!("expected a number, found {c:?}")
                        }))
                    }
                    None => failed(format!("expected a number, found '{word}'")),
                }
            }
        }
    }

    fn word(&mut self) -> &'a str {
        let end = self
            .rest
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '.')
            .unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word
    }
}
