"""Bodies of requests as pydantic models. Fields that are not named are ignored."""
