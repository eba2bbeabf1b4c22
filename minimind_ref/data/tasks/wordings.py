"""How each task is put into words; {…} are the question's operands."""

from collections.abc import Mapping

LANGUAGES = ("en", "zh")

WORDINGS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "reverse": {
        "en": (
            "Reverse this: {letters}",
            "Write these letters backwards: {letters}",
            "Say {letters} from the end to the start.",
        ),
        "zh": ("倒着写： {letters}", "把 {letters} 反过来。", "请把这些字母倒序写出： {letters}"),
    },
    "upper": {
        "en": (
            "Make this upper case: {letters}",
            "Write these letters as capitals: {letters}",
            "Turn {letters} into capital letters.",
        ),
        "zh": ("改成大写： {letters}", "把 {letters} 变成大写。", "请用大写字母写出： {letters}"),
    },
    "sum": {
        "en": ("What is {a} + {b}?", "Add {a} and {b}.", "How much are {a} and {b} together?"),
        "zh": ("{a} + {b} 等于多少？", "计算 {a} 加 {b}。", "{a} 与 {b} 的和是多少？"),
    },
    "count": {
        "en": (
            "How often does {letter} occur in: {letters}",
            "Count the letter {letter} in: {letters}",
            "How many times is {letter} in {letters}?",
        ),
        "zh": (
            "数一数 {letter} 出现几次： {letters}",
            "{letters} 里有几个 {letter} ？",
            "字母 {letter} 有多少个： {letters}",
        ),
    },
}
