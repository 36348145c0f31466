"""What entries of transcripts mean in calls, tokens and money: each counted once, exactly, to the cent.

accountant = Accountant(gateway, price_book(config.prices), BillingPolicy(settings.billing, subscriptions))
facts = accountant.facts(chunk, stores.sessions())
new_calls = await transaction.insert_model_calls(facts.calls)          # … and so on for every list
rejects = facts.rejects(new_calls)
totals = increments(facts, new_calls=new_calls, …, new_rejects=await transaction.insert_rejects(rejects))
await transaction.add_totals(totals)
"""

from exporter.accounting.accountant import EXACT, Accountant, Facts, Increments, session_row
from exporter.accounting.billing import BillingPolicy
from exporter.accounting.increments import increments
from exporter.accounting.prices import Price, PriceBook, PricesError, price_book

__all__ = [
    "EXACT",
    "Accountant",
    "BillingPolicy",
    "Facts",
    "Increments",
    "Price",
    "PriceBook",
    "PricesError",
    "increments",
    "price_book",
    "session_row",
]
