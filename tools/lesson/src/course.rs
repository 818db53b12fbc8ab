//! The lessons: their titles, what the learner builds in each, and its checks.

use crate::check::Check;
use crate::checks::{calling, following, framing, fronting, joining, living, saving};
use crate::language::Words;

/// What a program becomes. Later lessons of a role build on earlier ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Service,
    Gateway,
    Distributor,
}

pub struct Lesson {
    pub number: u8,
    pub title: Words,
    pub role: Role,
    pub checks: &'static [Check],
    /// Whether the real processes take part.
    pub needs_real: bool,
}

pub const LESSONS: [Lesson; 7] = [
    Lesson {
        number: 1,
        title: ["One read is not one packet", "read 한 번은 패킷 하나가 아니다"],
        role: Role::Service,
        checks: framing::CHECKS,
        needs_real: false,
    },
    Lesson {
        number: 2,
        title: ["One thread per connection, joining the cluster", "연결마다 스레드, 클러스터에 참여하기"],
        role: Role::Service,
        checks: joining::CHECKS,
        needs_real: true,
    },
    Lesson {
        number: 3,
        title: ["Whose reply is this?", "누구의 응답인가"],
        role: Role::Gateway,
        checks: calling::CHECKS,
        needs_real: false,
    },
    Lesson {
        number: 4,
        title: ["HTTP in front", "HTTP를 패킷으로"],
        role: Role::Gateway,
        checks: fronting::CHECKS,
        needs_real: true,
    },
    Lesson {
        number: 5,
        title: ["Who is alive?", "누가 살아 있는가"],
        role: Role::Distributor,
        checks: living::CHECKS,
        needs_real: true,
    },
    Lesson {
        number: 6,
        title: ["Answered means saved", "응답은 저장 뒤에"],
        role: Role::Service,
        checks: saving::CHECKS,
        needs_real: true,
    },
    Lesson {
        number: 7,
        title: ["Every change, once and at once", "모든 변경을 정확히 한 번, 바로"],
        role: Role::Service,
        checks: following::CHECKS,
        needs_real: true,
    },
];

/// The lesson with this number.
pub fn lesson(number: u8) -> Option<&'static Lesson> {
    LESSONS.iter().find(|lesson| lesson.number == number)
}

impl Role {
    pub fn name(self) -> Words {
        match self {
            Self::Service => ["service", "서비스"],
            Self::Gateway => ["gateway", "게이트웨이"],
            Self::Distributor => ["distributor", "분배기"],
        }
    }
}
