"""What people read: tables, views, plots and progress. Text from outside is made safe here."""
