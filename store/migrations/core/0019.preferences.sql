-- What a user of our pages has chosen; for the service only, there is no view.
CREATE TABLE lobs.user_preferences (
    owner text PRIMARY KEY,
    theme text NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now()
);
