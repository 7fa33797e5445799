"""What an application does with sqlalchemy-rqlite, unmodified: schema, ORM, types, counts, errors."""

import datetime
import sys

from sqlalchemy import (
    DateTime, Date, Float, ForeignKey, Integer, LargeBinary, String, create_engine, func, inspect, select, text, update,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

engine = create_engine(f"rqlite+pyrqlite://{sys.argv[1]}/", echo=False)


def check(found, expected):
    if found != expected:
        raise SystemExit(f"found {found!r}, expected {expected!r}")


class Base(DeclarativeBase):
    pass


class Author(Base):
    __tablename__ = "author"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    name: Mapped[str] = mapped_column(String(100), unique=True)
    rating: Mapped[float | None] = mapped_column(Float)
    books: Mapped[list["Book"]] = relationship(back_populates="author")


class Book(Base):
    __tablename__ = "book"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    title: Mapped[str] = mapped_column(String(200))
    cover: Mapped[bytes | None] = mapped_column(LargeBinary)
    author_id: Mapped[int] = mapped_column(ForeignKey("author.id"))
    author: Mapped[Author] = relationship(back_populates="books")


Base.metadata.create_all(engine)
check(sorted(inspect(engine).get_table_names()), ["author", "book"])

with Session(engine) as session:
    author = Author(name="Stanisław Lem – 宇宙 😀", rating=4.5)
    author.books = [Book(title="Solaris", cover=bytes([0, 1, 255])), Book(title="Eden's \"end\"; --")]
    session.add(author)
    session.commit()
    check(author.id, 1)

with Session(engine) as session:
    author = session.scalars(select(Author)).one()
    check((author.name, author.rating), ("Stanisław Lem – 宇宙 😀", 4.5))
    check([book.title for book in author.books], ["Solaris", "Eden's \"end\"; --"])
    check(author.books[0].cover, bytes([0, 1, 255]))
    author.books[1].title = "Eden"
    session.commit()
    check(session.scalar(select(func.count()).select_from(Book).where(Book.title == "Eden")), 1)
    count = session.execute(update(Book).values(title=Book.title + "!")).rowcount
    check(count, 2)
    session.delete(author.books[1])
    session.commit()
    check(session.scalar(select(func.count()).select_from(Book)), 1)

# The library has no transactions of its own, so an error leaves what was done before it.
with Session(engine) as session:
    session.add(Author(name="Stanisław Lem – 宇宙 😀"))
    try:
        session.commit()
        raise SystemExit("no error for a broken constraint")
    except Exception as error:
        if "UNIQUE constraint failed: author.name" not in str(error):
            raise

with engine.connect() as connection:
    check(connection.execute(text("SELECT 1")).scalar(), 1)
    row = connection.execute(text("SELECT id, name FROM author WHERE id = :id"), {"id": 1}).one()
    check(row.id, 1)
    connection.execute(text("CREATE TABLE stamp(d DATE, t TIMESTAMP)"))
    connection.execute(
        text("INSERT INTO stamp VALUES(:d, :t)"),
        {"d": datetime.date(2020, 2, 29), "t": datetime.datetime(2020, 2, 29, 1, 2, 3)},
    )
    stored = connection.execute(text("SELECT typeof(d), typeof(t), d || '', t || '' FROM stamp")).one()
    check(tuple(stored), ("text", "text", "2020-02-29", "2020-02-29 01:02:03"))

print("sqlalchemy-rqlite: ok")
