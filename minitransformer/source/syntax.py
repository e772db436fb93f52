"""Python source as trees that keep their comments, and back to text.

`ast` drops comments, blank lines and the spelling of literals. :func:`parse` keeps them beside the
nodes, and :func:`unparse` writes them again. A statement that nobody changed comes out as it went
in; a changed one is laid out anew, in the style of `ruff format`.
"""

import ast
import copy
import io
import itertools
import re
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

WIDTH = 100  # columns
# Tokens that begin and end a text; formatted ones have several since Python 3.12.
_TEXT_STARTS = (tokenize.STRING, getattr(tokenize, "FSTRING_START", tokenize.STRING))
_TEXT_ENDS = (tokenize.STRING, getattr(tokenize, "FSTRING_END", tokenize.STRING))
_INDENT = "    "
_OPENING, _CLOSING = "([{", ")]}"
Function = ast.FunctionDef | ast.Lambda


@dataclass(frozen=True)
class Origin:
    """What a statement looked like in the file that it comes from."""

    blank_before: bool
    comments: tuple[str, ...]  # on lines of their own, above it
    tail: str  # the comment after it, on its last line
    lines: tuple[str, ...]  # of the statement; of a compound one, its header
    dump: str  # of the tree, to see whether it was changed
    first_line: int
    last_line: int

    def __deepcopy__(self, memo: object) -> "Origin":
        return self


_LEAVES = {ast.Name, ast.Constant}
_MARKS = (ast.expr_context, ast.operator, ast.unaryop, ast.boolop, ast.cmpop)


def walk(tree: ast.AST) -> list[ast.AST]:
    """The nodes of a tree, parents first, but for those that only mark what a node is.

    `ast.walk` takes four times as long, and this is what most of the time goes to.
    """
    found, pending = [], [tree]
    while pending:
        node = pending.pop()
        found.append(node)
        if node.__class__ in _LEAVES:
            continue
        inner = []
        for name in node._fields:
            value = node.__dict__.get(name)
            if value.__class__ is list:
                inner += [item for item in value if isinstance(item, ast.AST)]
            elif isinstance(value, ast.AST) and not isinstance(value, _MARKS):
                inner.append(value)
        pending += reversed(inner)
    return found


# ---- text to tree ----


def parse(source: str) -> ast.Module:
    """The tree of a file; each statement has an `origin`, each literal its `source`."""
    tree = ast.parse(source)
    lines = source.splitlines()
    tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    comments = {token.start[0]: token for token in tokens if token.type == tokenize.COMMENT}
    colons = _header_ends(tokens)
    for node in walk(tree):
        if isinstance(node, ast.Constant | ast.JoinedStr):
            set_source(node, _segment(lines, node))
        if isinstance(node, ast.stmt):
            first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
            last = node.end_lineno or node.lineno
            if hasattr(node, "body"):
                last = next(line for line in colons if line >= node.lineno)
            above: list[str] = []
            while (token := comments.get(first - 1)) and token.line.lstrip().startswith("#"):
                above.insert(0, token.string)
                first -= 1
            tail = comments.get(last)
            own = lines[node.lineno - 1 : last]
            if tail is not None:
                own = [*own[:-1], own[-1][: tail.start[1]].rstrip()]
            node.origin = Origin(  # type: ignore[attr-defined]
                blank_before=first > 1 and not lines[first - 2].strip(),
                comments=tuple(above),
                tail="" if tail is None else tail.string,
                lines=tuple(own),
                dump=_dump(node),
                first_line=first,
                last_line=node.end_lineno or node.lineno,
            )
    return tree


def _header_ends(tokens: Sequence[tokenize.TokenInfo]) -> list[int]:
    """The lines with a colon that begins a block."""
    ends, depth = [], 0
    for token, after in itertools.pairwise(tokens):
        if token.type == tokenize.OP:
            depth += (token.string in _OPENING) - (token.string in _CLOSING)
            begins_block = after.type in (tokenize.NEWLINE, tokenize.COMMENT)
            if token.string == ":" and depth == 0 and begins_block:
                ends.append(token.start[0])
    return ends


def _segment(lines: Sequence[str], node: ast.expr) -> str:
    """The text of a literal, in one line."""
    assert node.end_lineno is not None
    found = list(lines[node.lineno - 1 : node.end_lineno])
    found[-1] = found[-1][: node.end_col_offset]
    found[0] = found[0][node.col_offset :]
    return " ".join(line.strip() for line in found)


def set_source(node: ast.expr, text: str) -> None:
    """Set the spelling of a literal."""
    node.source = text  # type: ignore[attr-defined]


def constant(value: object) -> ast.Constant:
    """A literal for a value."""
    node = ast.Constant(value)  # type: ignore[arg-type]
    set_source(node, f'"{value}"' if isinstance(value, str) else repr(value))
    return node


def statement(text: str) -> ast.stmt:
    """The one statement of a text."""
    return parse(text).body[0]


def expression(text: str) -> ast.expr:
    """The expression of a text."""
    parsed = statement(text)
    assert isinstance(parsed, ast.Expr)
    return parsed.value


def _header(node: ast.stmt) -> ast.stmt:
    """A statement without the statements inside it."""
    if not hasattr(node, "body"):
        return node
    header = copy.copy(node)
    for name in ("body", "orelse", "finalbody", "handlers", "decorator_list"):
        if hasattr(header, name):
            setattr(header, name, [])
    return header


def _dump(node: ast.stmt) -> str:
    return ast.dump(_header(node))


def is_changed(node: ast.stmt) -> bool:
    """Whether a statement, or the header of a compound one, is not what it was in its file."""
    origin = getattr(node, "origin", None)
    return origin is None or origin.dump != _dump(node)


def docstring(node: ast.AST) -> ast.Constant | None:
    """The literal that documents a function or a class."""
    body = getattr(node, "body", None)
    if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
        value = body[0].value
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            return value
    return None


def document(node: ast.AST) -> str | None:
    """The text that documents a function or a class."""
    literal = docstring(node)
    return None if literal is None else str(literal.value)


# ---- tree to text ----


def unparse(definitions: Sequence[ast.stmt]) -> str:
    """The text of a file's statements; imports and constants stand together, others apart."""
    lines: list[str] = []
    for before, node in zip([None, *definitions], definitions, strict=False):
        if before is not None:
            lines += [""] * _blank_lines(before, node)
        lines += _statement(node, 0)
    return "\n".join(lines) + "\n"


def _blank_lines(before: ast.stmt, after: ast.stmt) -> int:
    apart, imports = ast.FunctionDef | ast.ClassDef, ast.Import | ast.ImportFrom
    origin: Origin | None = getattr(after, "origin", None)
    if isinstance(before, apart) or isinstance(after, apart):
        return 2
    if isinstance(after, imports):
        return int(origin is not None and origin.blank_before)
    return int(isinstance(before, imports) or origin is None or bool(origin.comments))


def _block(body: Sequence[ast.stmt], depth: int, *, of_class: bool = False) -> list[str]:
    lines: list[str] = []
    for before, node in zip([None, *body], body, strict=False):
        if before is not None:
            apart = of_class and isinstance(before, ast.Expr)  # the docstring
            apart |= isinstance(before, ast.FunctionDef) or isinstance(node, ast.FunctionDef)
            origin = getattr(node, "origin", None)
            lines += [""] * (apart or (origin is not None and origin.blank_before))
        lines += _statement(node, depth)
    return lines


def _statement(node: ast.stmt, depth: int) -> list[str]:
    """The lines of a statement, its comments included."""
    origin: Origin | None = getattr(node, "origin", None)
    indent = _INDENT * depth
    lines = [indent + comment for comment in origin.comments] if origin else []
    lines += [f"{indent}@{text_of(d)}" for d in getattr(node, "decorator_list", [])]
    tail = f"  {origin.tail}" if origin and origin.tail else ""
    if origin is not None and not is_changed(node):
        own = origin.lines
        if len(own[0]) - len(own[0].lstrip()) == len(indent):
            return [*lines, *own[:-1], own[-1] + tail, *_inner_blocks(node, depth)]
    if isinstance(node, ast.Expr) and isinstance(text := getattr(node.value, "value", None), str):
        return lines + _docstring(text, indent)
    return lines + layout(_flat(node), indent, tail) + _inner_blocks(node, depth)


def _inner_blocks(node: ast.stmt, depth: int) -> list[str]:
    indent = _INDENT * depth
    body: list[ast.stmt] = getattr(node, "body", [])
    lines = _block(body, depth + 1, of_class=isinstance(node, ast.ClassDef))
    if isinstance(node, ast.Try):
        for handler in node.handlers:
            caught = f" {text_of(handler.type)}" if handler.type else ""
            name = f" as {handler.name}" if handler.name else ""
            lines += [f"{indent}except{caught}{name}:", *_block(handler.body, depth + 1)]
        if node.finalbody:
            lines += [f"{indent}finally:", *_block(node.finalbody, depth + 1)]
    otherwise: list[ast.stmt] = getattr(node, "orelse", [])
    if not otherwise:
        return lines
    first = otherwise[0]
    if isinstance(node, ast.If) and len(otherwise) == 1 and isinstance(first, ast.If):
        return lines + _elif(first, depth)
    return [*lines, f"{indent}else:", *_block(otherwise, depth + 1)]


def _elif(node: ast.If, depth: int) -> list[str]:
    as_if = _statement(node, depth)
    place = next(i for i, line in enumerate(as_if) if not line.lstrip().startswith("#"))
    if not as_if[place].lstrip().startswith("elif"):
        as_if[place] = as_if[place].replace("if", "elif", 1)
    return as_if


def _docstring(text: str, indent: str) -> list[str]:
    first, *rest = text.strip().split("\n")
    if not rest:
        return [f'{indent}"""{first}"""']
    return [f'{indent}"""{first}', *(f"{indent}{line}".rstrip() for line in rest), f'{indent}"""']


def text_of(node: ast.AST) -> str:
    """An expression in one line, its literals spelled as in the source."""
    text = ast.unparse(_Spelled().visit(copy.deepcopy(node)))
    return text


class _Spelled(ast.NodeTransformer):
    """Puts names in place of what `ast.unparse` would spell in another way than `ruff format`."""

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        return ast.Name(getattr(node, "source", "") or repr(node.value))

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.expr:
        return ast.Name(node.source)  # type: ignore[attr-defined]

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        self.generic_visit(node)
        simple = ast.Name | ast.Attribute
        if isinstance(node.op, ast.Pow) and isinstance(node.left, simple):
            right = node.right.operand if isinstance(node.right, ast.UnaryOp) else node.right
            if isinstance(right, simple):
                return ast.Name(f"{ast.unparse(node.left)}**{ast.unparse(node.right)}")
        return node

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        if len(node.args) == 1 and isinstance(node.args[0], ast.GeneratorExp) and not node.keywords:
            node.args = [ast.Name(ast.unparse(node.args[0])[1:-1])]
        return node

    def visit_Slice(self, node: ast.Slice) -> ast.expr:
        self.generic_visit(node)
        if any(isinstance(bound, ast.BinOp | ast.Call) for bound in (node.lower, node.upper)):
            lower, upper = (ast.unparse(b) if b else "" for b in (node.lower, node.upper))
            return ast.Name(f"{lower} : {upper}".strip())
        return node

    def visit_Lambda(self, node: ast.Lambda) -> ast.expr:
        return ast.Name(ast.unparse(self.generic_visit(node)))


def _bare(node: ast.expr) -> str:
    """A value, without parentheses around a tuple."""
    if isinstance(node, ast.Tuple) and len(node.elts) > 1:
        return ", ".join(map(text_of, node.elts))
    return text_of(node)


def _flat(node: ast.stmt) -> str:
    """A statement, or the header of a compound one, in one line."""
    if isinstance(node, ast.FunctionDef):
        returns = f" -> {text_of(node.returns)}" if node.returns else ""
        return f"def {node.name}({', '.join(_parameters(node.args))}){returns}:"
    if isinstance(node, ast.ClassDef):
        keywords = [f"{k.arg}={text_of(k.value)}" for k in node.keywords]
        bases = ", ".join([*map(text_of, node.bases), *keywords])
        return f"class {node.name}({bases}):" if bases else f"class {node.name}:"
    if isinstance(node, ast.Return):
        return "return" if node.value is None else f"return {_bare(node.value)}"
    if isinstance(node, ast.Assign):
        targets = [_bare(target) for target in node.targets]
        return " = ".join([*targets, _bare(node.value)])
    if isinstance(node, ast.For):
        return f"for {_bare(node.target)} in {_bare(node.iter)}:"
    if isinstance(node, ast.Try):
        return "try:"
    return ast.unparse(_Spelled().visit(copy.deepcopy(_header(node))))


def _parameters(arguments: ast.arguments) -> Iterator[str]:
    positional = [*arguments.posonlyargs, *arguments.args]
    missing = len(positional) - len(arguments.defaults)
    for parameter, default in zip(
        positional, [*[None] * missing, *arguments.defaults], strict=True
    ):
        yield _parameter(parameter, default)
    if arguments.vararg:
        yield f"*{_parameter(arguments.vararg, None)}"
    elif arguments.kwonlyargs:
        yield "*"
    for parameter, keyword in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        yield _parameter(parameter, keyword)
    if arguments.kwarg:
        yield f"**{_parameter(arguments.kwarg, None)}"


def _parameter(parameter: ast.arg, default: ast.expr | None) -> str:
    annotation = f": {text_of(parameter.annotation)}" if parameter.annotation else ""
    if default is None:
        return parameter.arg + annotation
    equals = " = " if annotation else "="
    return parameter.arg + annotation + equals + text_of(default)


# ---- layout ----

# Where a line is broken, the weakest operator first.
_OPERATORS = (
    ("for", "if"),
    ("if", "else"),
    ("or", "and"),
    ("==", "!=", "<", ">", "<=", ">=", "in"),
    ("|",),
    ("&",),
    ("+", "-"),
    ("*", "/", "//", "@", "%"),
)
# What stands before an expression that gets parentheses if it is broken.
_BEFORE = re.compile(
    r"return |assert |if |elif |while |raise |[\w.\[\], ]+(?:: [^=]+)? [-+*/&|]?= "
)


def _tokens(text: str) -> list[tokenize.TokenInfo]:
    found = tokenize.generate_tokens(io.StringIO(text).readline)
    ends = (tokenize.NEWLINE, tokenize.NL, tokenize.ENDMARKER)
    tokens = []
    try:
        for token in found:
            if token.type not in ends:
                tokens.append(token)
    except tokenize.TokenError:  # an open bracket at the end
        pass
    return tokens


def layout(text: str, indent: str, tail: str = "") -> list[str]:
    """The lines of a statement given in one line, with its comment, as `ruff format` breaks it."""
    if len(indent + text + tail) <= WIDTH:
        return [indent + text + tail]
    head, body, rest = _split(text)
    if body is None:
        return [indent + text + tail]
    inner = indent + _INDENT
    if len(inner + body) <= WIDTH:
        return [indent + head, inner + body, indent + rest + tail]
    lines = []
    for part in _parts(body):
        lines += layout(part, inner)
    return [indent + head, *lines, indent + rest + tail]


def _split(text: str) -> tuple[str, str | None, str]:
    """The text before the brackets that are broken, inside, and after; None for no brackets."""
    keyword = _BEFORE.match(text)
    if keyword and not text.startswith(("def ", "class ", "for ", "with ")):
        start = keyword.end()
        end = len(text) - text.endswith(":")
        if _top_level_operators(text[start:end]):
            return text[:start] + "(", text[start:end], ")" + text[end:]
    groups = []
    depth = 0
    for token in _tokens(text):
        if token.type == tokenize.OP and token.string in _OPENING:
            if depth == 0:
                begin = token.end[1]
            depth += 1
        if token.type == tokenize.OP and token.string in _CLOSING:
            depth -= 1
            if depth == 0 and token.start[1] > begin:
                groups.append((begin, token.start[1]))
    if not groups:
        return text, None, ""
    begin, end = groups[0] if text.startswith("def ") else groups[-1]
    return text[:begin], text[begin:end], text[end:]


def _top_level_operators(text: str) -> bool:
    """Whether an expression has an operator outside all brackets."""
    depth = 0
    for place, token in enumerate(_tokens(text)):
        if token.string in _OPENING and token.type == tokenize.OP:
            depth += 1
        elif token.string in _CLOSING and token.type == tokenize.OP:
            depth -= 1
        elif depth == 0 and place and token.string in {op for ops in _OPERATORS for op in ops}:
            return True
    return False


def _parts(body: str) -> list[str]:
    """What stands on a line of its own: items and their commas, or operands and operators."""
    tokens = _tokens(body)
    depths, depth = [], 0
    for token in tokens:
        depth -= token.string in _CLOSING and token.type == tokenize.OP
        depths.append(depth)
        depth += token.string in _OPENING and token.type == tokenize.OP
    top = [token for token, depth in zip(tokens, depths, strict=True) if depth == 0]
    commas = [token.end[1] for token in top if token.string == ","]
    is_comprehension = any(token.string == "for" for token in top)
    texts = [
        after.start[1]
        for before, after in itertools.pairwise(top)
        if before.type in _TEXT_ENDS and after.type in _TEXT_STARTS
    ]
    if texts and not commas:  # texts that follow each other are one
        bounds = [0, *texts, len(body)]
        return [body[a:b].strip() for a, b in itertools.pairwise(bounds)]
    if not is_comprehension and (commas or not any(_is_operator(t, top) for t in top)):
        bounds = [0, *commas, len(body)]
        items = [body[a:b].strip() for a, b in itertools.pairwise(bounds)]
        return [f"{item.removesuffix(',')}," for item in items if item]
    for operators in _OPERATORS:
        if operators == ("for", "if") and not is_comprehension:
            continue
        places = [t.start[1] for t in top if t.string in operators and t.start[1] > 0]
        if places:
            bounds = [0, *places, len(body)]
            return [body[a:b].strip() for a, b in itertools.pairwise(bounds)]
    return [body]


def _is_operator(token: tokenize.TokenInfo, top: Sequence[tokenize.TokenInfo]) -> bool:
    known = {operator for operators in _OPERATORS for operator in operators}
    return token.string in known and token is not top[0]
